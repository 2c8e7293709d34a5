/* 温室の温度計:受信した値を確かめ、ならし、表示する。 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CAPACITY 64u

/* 割り込みと本体のあいだで値を渡す輪。満杯のときは古い値を残し、新しい値を捨てる。 */
struct ring {
    int16_t values[CAPACITY];
    volatile unsigned head, tail;
};

bool ring_put(struct ring *ring, int16_t value)
{
    if (ring->head - ring->tail == CAPACITY)
        return false;
    ring->values[ring->head % CAPACITY] = value;
    ring->head++;
    return true;
}

bool ring_take(struct ring *ring, int16_t *value)
{
    if (ring->head == ring->tail)
        return false;
    *value = ring->values[ring->tail % CAPACITY];
    ring->tail++;
    return true;
}

/* 通信中に一ビットでも化けていないかを調べる(多項式 0x1021、初期値 0xFFFF)。 */
uint16_t crc16(const uint8_t *bytes, size_t count)
{
    uint16_t crc = 0xFFFF;
    while (count--) {
        crc ^= (uint16_t)(*bytes++ << 8);
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000) ? (uint16_t)(crc << 1 ^ 0x1021) : (uint16_t)(crc << 1);
    }
    return crc;
}

/* 直近の値の中央値。配線の雑音で一つだけ飛び抜けた値が出ても影響されない。count は 32 以下。 */
int16_t median(const int16_t *values, size_t count)
{
    int16_t sorted[32];
    if (count == 0 || count > 32)
        return 0;
    memcpy(sorted, values, count * sizeof *values);
    for (size_t i = 1; i < count; i++) {
        int16_t value = sorted[i];
        size_t j = i;
        for (; j > 0 && sorted[j - 1] > value; j--)
            sorted[j] = sorted[j - 1];
        sorted[j] = value;
    }
    return sorted[count / 2];
}

/* 暖房の入切。境目で何度も切り替わらないように、入れる温度と切る温度を離してある。 */
bool heater(bool on, int16_t tenths, int16_t low, int16_t high)
{
    if (tenths <= low)
        return true;
    if (tenths >= high)
        return false;
    return on;
}
