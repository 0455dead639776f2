import { readdirSync, readFileSync } from "node:fs";
import { formsIn, type SecretForms } from "../secret-forms.ts";

/** Looks through the arguments and the environment of every process of this machine, those of nodes in namespaces included. */
export class ProcessSampler {
  readonly #forms: SecretForms;
  readonly #isProgram: (command: string) => boolean;
  readonly #found = new Set<string>();
  readonly #commands = new Set<string>();
  #rounds = 0;

  /** @param isProgram whether a command line is that of the user's program, what is found in whose environment is told apart */
  constructor(forms: SecretForms, isProgram: (command: string) => boolean = () => false) {
    this.#forms = forms;
    this.#isProgram = isProgram;
  }

  get rounds(): number {
    return this.#rounds;
  }

  /** Command lines that were seen. */
  get commands(): readonly string[] {
    return [...this.#commands];
  }

  /** What was found: `PLACE: FORM`; `program's environ: FORM` for that of the program. */
  get found(): readonly string[] {
    return [...this.#found].sort();
  }

  /** Looks once at every process but this one. */
  sample(): void {
    this.#rounds++;
    for (const pid of readdirSync("/proc")) {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue;
      const command = read(`/proc/${pid}/cmdline`);
      this.#commands.add(command);
      const environ = this.#isProgram(command) ? "program's environ" : "environ";
      for (const form of formsIn(command, this.#forms)) this.#found.add(`cmdline: ${form}`);
      for (const form of formsIn(read(`/proc/${pid}/environ`), this.#forms))
        this.#found.add(`${environ}: ${form}`);
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
