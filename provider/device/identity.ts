import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import ssh2, { type ParsedKey } from "ssh2";
import type { Connection } from "../connection.ts";
import { cancelled, DeviceError } from "./errors.ts";
import { IdentityCommands, type Answer } from "./identity-command.ts";

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

function keyOf(node: string, answer: Answer | undefined): Identity {
  if (answer === undefined) throw cancelled(node, "while the command in identityCommand ran");
  if ("printed" in answer) return parsePrivateKey(node, answer.printed, "identityCommand");
  throw new DeviceError("refused", node, `the command in identityCommand ${answer.fault}`, {
    hint: "run it in a shell, as the user and in the environment that Pulumi runs in, and see what it says: it has to print the private key, and nothing else, on standard output. It has no terminal here, and can ask by a window or an agent alone",
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

export function createIdentities(): Identities {
  const commands = new IdentityCommands();
  return {
    async of(connection, signal) {
      const { node, privateKey, identityCommand, identityFile } = connection;
      if (privateKey !== undefined) return parsePrivateKey(node, privateKey, "privateKey");
      if (identityCommand !== undefined) return keyOf(node, await commands.ask(identityCommand, signal));
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
