/** A generator of choices that is the same in every run (mulberry32): a failing state can be named by its seed. */
export class Choices {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  #next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** One of the given values; the first, by convention the desired one, three times out of four. */
  mostly<T>(first: T, ...others: readonly T[]): T {
    return this.#next() < 0.75 || others.length === 0
      ? first
      : (others[Math.floor(this.#next() * others.length)] as T);
  }
}
