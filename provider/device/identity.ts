import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import ssh2, { type ParsedKey } from "ssh2";
import type { Connection } from "../connection.ts";
import { cancelled, DeviceError } from "./errors.ts";

/** How we prove who we are: a private key, or an agent that holds some. */
export type Identity =
  | { readonly type: "publickey"; readonly key: ParsedKey; readonly from: string }
  | { readonly type: "agent"; readonly agent: string; readonly from: string };

/**
 * Parses a private key. Messages are our own words throughout: what the parser says could hold a piece of the key (pulumi-command#773).
 * @throws DeviceError `refused`.
 */
function parsePrivateKey(node: string, text: string, from: string): Identity {
  // A key pasted into a YAML block or an environment variable often lost its last line feed, or got carriage returns.
  const parsed = ssh2.utils.parseKey(`${text.replaceAll("\r\n", "\n").trim()}\n`);
  const key: unknown = Array.isArray(parsed) ? parsed[0] : parsed;
  if (key instanceof Error) {
    if (/encrypted|passphrase/i.test(key.message)) {
      throw new DeviceError("refused", node, `the private key from ${from} is encrypted`, {
        hint: "load it into an ssh agent (ssh-add) and leave `privateKey`, `identityCommand` and `identityFile` out, or give a key without a passphrase",
      });
    }
    throw new DeviceError(
      "refused",
      node,
      `the private key from ${from} can't be read (${text.length} characters)`,
      {
        hint: "give all of it, from `-----BEGIN` to `-----END`, in OpenSSH or PEM format, with its line feeds",
      },
    );
  }
  const privateKey = key as ParsedKey;
  if (privateKey.isPrivateKey()) return { type: "publickey", key: privateKey, from };
  throw new DeviceError("refused", node, `the key from ${from} is a public key`, {
    hint: "give the private half: the file without `.pub`",
  });
}

async function readIdentityFile(node: string, name: string): Promise<Identity> {
  const path = name === "~" || name.startsWith("~/") ? join(homedir(), name.slice(1)) : name;
  const from = `identityFile ${path}`;
  let text: string;
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new DeviceError(
        "refused",
        node,
        `${from} can be read by other users (mode ${(mode & 0o7777).toString(8).padStart(4, "0")})`,
        { hint: `chmod 600 ${path}` },
      );
    }
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof DeviceError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? "unknown error";
    throw new DeviceError("refused", node, `${from} can't be read`, {
      originalMessage: code,
      hint:
        code === "ENOENT"
          ? "there is no such file on the machine that runs Pulumi: correct `identityFile`, or give `privateKey` or an agent"
          : "it has to be a file that the user who runs Pulumi can read",
    });
  }
  return parsePrivateKey(node, text, from);
}

/** A person may have to unlock a vault, or touch a token. */
const commandPatienceMs = 120_000;
/** More than any private key has. */
const longestKey = 64 * 1024;

type Answer = { readonly printed: string } | { readonly fault: string } | "cancelled";

/** What a command prints on standard output. Nothing of that, nor of what it says on standard error, is in a fault: either could hold a piece of the key. */
async function ask(command: string, signal: AbortSignal | undefined): Promise<Answer> {
  // A group of its own, so that what the shell started ends with it.
  const child = spawn("/bin/sh", ["-c", command], { stdio: ["ignore", "pipe", "ignore"], detached: true });
  const deadline = AbortSignal.timeout(commandPatienceMs);
  const end = signal === undefined ? deadline : AbortSignal.any([signal, deadline]);
  const stop = (): void => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
      process.kill(-child.pid, "SIGKILL");
  };
  end.addEventListener("abort", stop, { once: true });
  if (end.aborted) stop();
  try {
    const [output, [code]] = await Promise.all([
      buffer(child.stdout),
      once(child, "close") as Promise<[number | null]>,
    ]);
    if (signal?.aborted === true) return "cancelled";
    if (deadline.aborted) return { fault: `did not end within ${commandPatienceMs / 1000} s` };
    if (code !== 0) return { fault: code === null ? "was killed" : `ended with exit status ${code}` };
    if (output.length === 0) return { fault: "printed nothing" };
    if (output.length > longestKey)
      return { fault: `printed ${output.length} bytes, which is no private key` };
    return { printed: output.toString("utf8") };
  } finally {
    end.removeEventListener("abort", stop);
  }
}

function keyOf(node: string, answer: Answer): Identity {
  if (answer === "cancelled") throw cancelled(node, "while the command in identityCommand ran");
  if ("printed" in answer) return parsePrivateKey(node, answer.printed, "identityCommand");
  throw new DeviceError("refused", node, `the command in identityCommand ${answer.fault}`, {
    hint: "run it in a shell, as the user and in the environment that Pulumi runs in, and see what it says; it has to print the private key, and nothing else, on standard output",
  });
}

/** How connections find out who we are. */
export interface Identities {
  /**
   * The identity that a connection names: `privateKey`, else what `identityCommand` prints, else `identityFile`, else the agent it names or that of SSH_AUTH_SOCK.
   * @throws DeviceError `refused` when there is none, or it can't be used; nothing was sent then.
   */
  of(connection: Connection, signal?: AbortSignal): Promise<Identity>;
}

/** Asks each command once, however many nodes and connections it is for: it may ask a person. One that failed is asked again. */
export function createIdentities(): Identities {
  const asked = new Map<string, Promise<Answer>>();
  const answerOf = async (command: string, signal: AbortSignal | undefined): Promise<Answer> => {
    const asking = asked.get(command) ?? ask(command, signal);
    asked.set(command, asking);
    const answer = await asking;
    if (!(typeof answer === "object" && "printed" in answer)) asked.delete(command);
    return answer;
  };
  return {
    async of(connection, signal) {
      const { node, privateKey, identityCommand, identityFile } = connection;
      if (privateKey !== undefined) return parsePrivateKey(node, privateKey, "privateKey");
      if (identityCommand !== undefined) return keyOf(node, await answerOf(identityCommand, signal));
      if (identityFile !== undefined) return readIdentityFile(node, identityFile);
      const agent = connection.agent ?? process.env["SSH_AUTH_SOCK"];
      if (agent !== undefined && agent !== "")
        return { type: "agent", agent, from: `the ssh agent at ${agent}` };
      throw new DeviceError("refused", node, "there is no key to log in with", {
        hint: "give the connection an `identityFile`, an `identityCommand` or a `privateKey`, or run an ssh agent (SSH_AUTH_SOCK is not set)",
      });
    },
  };
}
