// Small helpers that keep a web page polite towards a server with bad days.

export type Task<T> = () => Promise<T>;

const pause = (ms: number) => new Promise<void>((done) => setTimeout(done, ms));

/** Tries again after 1, 2, 4 ... times `base`, each wait shortened at random so that clients spread out. */
export async function persist<T>(task: Task<T>, attempts = 5, base = 200): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await task();
    } catch (error) {
      if (attempt >= attempts) throw error;
      await pause(base * 2 ** (attempt - 1) * (0.5 + Math.random() / 2));
    }
  }
}

/** Runs the function once the person has stopped typing for `quiet` milliseconds. */
export function afterSilence<A extends unknown[]>(run: (...args: A) => void, quiet: number) {
  let timer: ReturnType<typeof setTimeout> | undefined;
  return (...args: A) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), quiet);
  };
}

/** Two callers asking for the same key at the same time share one answer. */
export class SharedFlight<T> {
  private readonly running = new Map<string, Promise<T>>();

  get(key: string, task: Task<T>): Promise<T> {
    const known = this.running.get(key);
    if (known) return known;
    const fresh = task().finally(() => this.running.delete(key));
    this.running.set(key, fresh);
    return fresh;
  }
}

/** Remembers the last `size` values; whatever was not touched for longest is forgotten first. */
export class RecentMemory<K, V> {
  private readonly values = new Map<K, V>();

  constructor(private readonly size: number) {}

  get(key: K): V | undefined {
    const value = this.values.get(key);
    if (value !== undefined) this.set(key, value);
    return value;
  }

  set(key: K, value: V): void {
    this.values.delete(key);
    this.values.set(key, value);
    if (this.values.size > this.size) this.values.delete(this.values.keys().next().value as K);
  }
}

/** Lets at most `limit` tasks run side by side; results keep the order of the input. */
export async function sideBySide<T>(tasks: Task<T>[], limit: number): Promise<T[]> {
  const results: T[] = new Array(tasks.length);
  let next = 0;
  const worker = async () => {
    while (next < tasks.length) {
      const mine = next++;
      results[mine] = await tasks[mine]();
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, tasks.length) }, worker));
  return results;
}
