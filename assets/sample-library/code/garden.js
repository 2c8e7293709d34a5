// 텃밭 달력: 언제 심고, 언제 물을 줄지 계산한다.

const DAY = 24 * 60 * 60 * 1000;

/** 위도와 날짜로 해가 떠 있는 시간을 구한다. 극지방에서는 0 또는 24가 된다. */
export function daylightHours(latitude, date) {
  const start = Date.UTC(date.getUTCFullYear(), 0, 0);
  const day = Math.floor((date.getTime() - start) / DAY);
  const tilt = (-23.44 * Math.PI) / 180 * Math.cos((2 * Math.PI * (day + 10)) / 365);
  const cosine = -Math.tan((latitude * Math.PI) / 180) * Math.tan(tilt);
  return (24 / Math.PI) * Math.acos(Math.min(1, Math.max(-1, cosine)));
}

/** 여러 해의 마지막 서리 날짜를 보고, 열 해 중 아홉 해는 안전한 심는 날(그해의 며칠째)을 고른다. */
export function safePlantingDay(lastFrostDays) {
  const sorted = [...lastFrostDays].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.9) - 1)] + 1;
}

/** 기준 온도보다 따뜻했던 만큼을 날마다 더한다. 합이 need에 닿으면 거둘 때가 된 것이다. */
export function harvestIndex(days, base, need) {
  let sum = 0;
  for (const [index, { low, high }] of days.entries()) {
    sum += Math.max(0, (low + high) / 2 - base);
    if (sum >= need) return index;
  }
  return -1;
}

/** 비가 온 만큼을 빼고 오늘 제곱미터마다 몇 리터를 주어야 하는지 알려 준다. */
export function litresToday(stored, rain, evaporated, capacity) {
  const left = Math.min(capacity, stored + rain) - evaporated;
  return left < capacity / 2 ? Math.round(capacity - left) : 0;
}

/** 같은 과의 작물을 같은 자리에 세 해 안에 다시 심지 않도록 자리를 찾는다. */
export function freeBed(history, family, year) {
  const recent = (bed) => bed.crops.some((crop) => crop.family === family && year - crop.year < 3);
  const bed = history.find((candidate) => !recent(candidate));
  return bed ? bed.name : null;
}
