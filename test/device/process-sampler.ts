import { readdirSync, readFileSync } from "node:fs";
import { formsIn, type SecretForms } from "../secret-forms.ts";

const places = ["cmdline", "environ"] as const;

/** Looks through the arguments and the environment of every process of this machine, those of nodes in namespaces included. */
export class ProcessSampler {
  readonly #forms: SecretForms;
  readonly #found = new Set<string>();
  readonly #commands = new Set<string>();
  #rounds = 0;

  constructor(forms: SecretForms) {
    this.#forms = forms;
  }

  get rounds(): number {
    return this.#rounds;
  }

  /** Command lines that were seen. */
  get commands(): readonly string[] {
    return [...this.#commands];
  }

  /** What was found: `PLACE: FORM`. */
  get found(): readonly string[] {
    return [...this.#found].sort();
  }

  /** Looks once at every process but this one. */
  sample(): void {
    this.#rounds++;
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
      for (const place of places) {
        const text = read(`/proc/${pid}/${place}`);
        if (place === "cmdline") this.#commands.add(text);
        for (const form of formsIn(text, this.#forms)) this.#found.add(`${place}: ${form}`);
      }
    }
  }

  /** Looks over and over while `action` runs. */
  async while<T>(action: () => Promise<T>): Promise<T> {
    const timer = setInterval(() => this.sample(), 50);
    try {
      return await action();
    } finally {
      clearInterval(timer);
    }
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8").replaceAll("\0", " ");
  } catch {
    // It ended while we looked.
    return "";
  }
}
