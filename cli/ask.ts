import { openSync } from "node:fs";
import { ReadStream, WriteStream } from "node:tty";
import { UserError } from "./errors.ts";

/** Interrupted at a prompt. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/** The terminal itself, whatever standard input and output are: a log may be piped in, and a report out. */
function openTerminal(): { readonly input: ReadStream; readonly output: WriteStream } | undefined {
  try {
    return {
      input: new ReadStream(openSync("/dev/tty", "r")),
      output: new WriteStream(openSync("/dev/tty", "w")),
    };
  } catch {
    return undefined;
  }
}

/** Whether there is a person to ask. */
export function canAsk(): boolean {
  const terminal = openTerminal();
  terminal?.input.destroy();
  terminal?.output.destroy();
  return terminal !== undefined;
}

/**
 * Asks on the terminal without showing what is typed.
 * @param mend What to do where there is no terminal.
 * @throws UserError, Interrupted
 */
export const askHidden = (question: string, mend: string): Promise<string> => ask(question, mend, false);

/** Asks on the terminal, and shows what is typed. @throws as `askHidden` */
export const askShown = (question: string, mend: string): Promise<string> => ask(question, mend, true);

/** How somebody is asked; another one for tests. */
export interface Asking {
  readonly canAsk: () => boolean;
  readonly ask: (question: string, mend: string) => Promise<string>;
}

/** Whether the user says yes. Without a terminal, and with --json, only --yes does. @throws Interrupted */
export async function confirmed(
  question: string,
  { yes, json }: { readonly yes?: true; readonly json?: true },
  asking: Asking = { canAsk, ask: askShown },
): Promise<boolean> {
  if (yes) return true;
  if (json || !asking.canAsk()) return false;
  return /^y(es)?$/i.test((await asking.ask(`${question} [y/N] `, "give --yes")).trim());
}

async function ask(question: string, mend: string, shown: boolean): Promise<string> {
  const terminal = openTerminal();
  if (terminal === undefined)
    throw new UserError(`there is no terminal to ask '${question.trim()}'`, { hint: mend });
  const { input, output } = terminal;
  try {
    // Raw, so that nothing is echoed; what makes a line is done here.
    input.setRawMode(true);
    output.write(question);
    return await readLine(input, shown ? (text) => output.write(text) : () => undefined);
  } finally {
    input.setRawMode(false);
    output.write("\n");
    input.destroy();
    output.destroy();
  }
}

/**
 * A line of raw terminal input: Enter ends it, Backspace and Ctrl-U take back, Ctrl-C and Ctrl-D interrupt.
 * @param echo Shows what was typed, or takes it back (`\b \b`).
 */
export function readLine(
  input: Pick<NodeJS.ReadableStream, "on" | "off" | "setEncoding" | "resume">,
  echo: (text: string) => void,
): Promise<string> {
  const typed: string[] = [];
  return new Promise((resolve, reject) => {
    const end = (): void => {
      input.off("data", onData);
      input.off("end", onEnd);
    };
    const onEnd = (): void => {
      end();
      reject(new Interrupted("the terminal went away"));
    };
    const onData = (chunk: string | Buffer): void => {
      for (const key of chunk.toString()) {
        if (key === "\r" || key === "\n") {
          end();
          resolve(typed.join(""));
          return;
        }
        if (key === "\u0003" || key === "\u0004") {
          end();
          reject(new Interrupted("interrupted"));
          return;
        }
        if (key === "\u007f" || key === "\b") {
          if (typed.pop() !== undefined) echo("\b \b");
        } else if (key === "\u0015") {
          echo("\b \b".repeat(typed.length));
          typed.length = 0;
        } else if (key >= " ") {
          typed.push(key);
          echo(key);
        }
      }
    };
    input.setEncoding("utf8");
    input.on("data", onData);
    input.on("end", onEnd);
    input.resume();
  });
}
