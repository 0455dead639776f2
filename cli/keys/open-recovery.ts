import { open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { NotAState, recordedResources } from "../../policies/recorded-state.ts";
import type { StackResource } from "../../policies/stack.ts";
import {
  bindingText,
  openRecovery,
  RecoveryRefused,
  type RecoveryBinding,
} from "../../provider/trust/recovery.ts";
import { UserError } from "../errors.ts";
import { recoveryKeyOf, renamedHint } from "../volume/recovery-key.ts";
import { requireOutsideVersionControl } from "./outside-version-control.ts";
import type { PassphraseOptions } from "./passphrase.ts";

/*
 * What a node sent for safe keeping, opened without the node: its system card is gone, and with it the records that `edgeseal volume recover` reads. The state of the stack has the ciphertexts, too.
 */

/** The options of `edgeseal keys open`, as commander gives them. */
export interface OpenOptions extends PassphraseOptions {
  readonly state: string;
  readonly uuid?: string;
  readonly boundTo?: string;
  readonly keys?: string;
  readonly recoveryKey?: string;
  readonly out?: string;
}

/** Where a secret goes that is not put into a file. */
export interface Output {
  readonly isTTY?: boolean | undefined;
  write(text: string): unknown;
}

/**
 * `edgeseal keys open NODE WHAT`: decrypts one secret from an exported state. It is for the node, and the disk, that were named, or it is not given out.
 * @throws UserError, KeyUnusable
 */
export async function openFromState(
  node: string,
  what: string,
  options: OpenOptions,
  output: Output = process.stdout,
): Promise<void> {
  const binding = bindingOf(options.boundTo ?? node, what, options.uuid);
  const destination = await destinationOf(options.out, output);
  const resources = await readState(options.state);
  const { ciphertext, recoveryKey } = recordedIn(resources, node, what);
  const key = await recoveryKeyOf(options);
  if (key.fingerprint !== undefined && recoveryKey !== "" && key.fingerprint !== recoveryKey) {
    throw new UserError(
      `${bindingText(binding)}: encrypted to the recovery key ${recoveryKey.slice(0, 16)}..., and yours is ${key.fingerprint.slice(0, 16)}...`,
      { hint: "give the folder of that one" },
    );
  }
  const privateKey = await key.open();
  const secret = await openRecovery(ciphertext, privateKey, binding).catch((error: unknown) => {
    if (!(error instanceof RecoveryRefused)) throw error;
    throw new UserError(error.message, {
      cause: error,
      hint:
        renamedHint(error, node, nodesIn(resources)) ??
        "nothing was given out; see that node, disk and stack are the ones that you mean",
    });
  });
  await destination(secret);
}

const forms = "volume/NAME, tpm/owner or tpm/lockout";

/** What the secret has to be for. Whoever can change the state could put another volume's ciphertext there: the UUID is that of the disk in hand. */
function bindingOf(node: string, what: string, uuid: string | undefined): RecoveryBinding {
  const [, kind, name = ""] = /^(volume|tpm)\/([a-z0-9-]+)$/.exec(what) ?? [];
  if (kind === "tpm" && (name === "owner" || name === "lockout")) {
    if (uuid !== undefined) throw new UserError("--uuid is for volumes", { hint: "leave it out" });
    return { kind: "tpm-auth", node, subject: name };
  }
  if (kind !== "volume") throw new UserError(`'${what}' can't be opened`, { hint: `give ${forms}` });
  if (uuid === undefined) {
    throw new UserError(`which disk is the volume ${name} on?`, {
      hint: "give --uuid UUID, as `cryptsetup luksUUID DEVICE` prints it of the disk in hand",
    });
  }
  return { kind: "luks", node, subject: uuid.toLowerCase() };
}

/** Where the secret goes, made sure of before anybody types a passphrase. */
async function destinationOf(
  out: string | undefined,
  output: Output,
): Promise<(secret: string) => Promise<void>> {
  if (out === undefined) {
    if (output.isTTY) {
      throw new UserError("a secret is not shown on a terminal", {
        hint: "pipe it to where it is used (`| sudo cryptsetup open --key-file - ...`), or give --out FILE",
      });
    }
    return (secret) => {
      output.write(secret);
      return Promise.resolve();
    };
  }
  await requireOutsideVersionControl(dirname(out));
  return async (secret) => {
    const file = await open(out, "wx", 0o600).catch((error: unknown) => {
      throw new UserError(`${out} can't be made: ${(error as Error).message}`, { cause: error });
    });
    try {
      await file.chmod(0o600);
      await file.writeFile(secret);
    } finally {
      await file.close();
    }
  };
}

async function readState(file: string): Promise<readonly StackResource[]> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw new UserError(`${file} can't be read: ${(error as Error).message}`, { cause: error });
  });
  try {
    return recordedResources(text);
  } catch (error) {
    if (!(error instanceof NotAState)) throw error;
    throw new UserError(`${file}: ${error.message}`, { hint: "expected what `pulumi stack export` writes" });
  }
}

const nodesIn = (resources: readonly StackResource[]): readonly string[] =>
  resources.flatMap(({ inputs }) => (typeof inputs?.["node"] === "string" ? [inputs["node"]] : []));

interface Recorded {
  readonly ciphertext: Buffer;
  /** Fingerprint of the recovery key that it was made for; empty where the state does not say. */
  readonly recoveryKey: string;
}

function recordedIn(resources: readonly StackResource[], node: string, what: string): Recorded {
  const [kind, name = ""] = what.split("/");
  const found = resources.filter(
    ({ type, inputs }) =>
      inputs?.["node"] === node &&
      (kind === "volume"
        ? type === "edgeseal:storage:SealedVolume" && inputs["name"] === name
        : type === "edgeseal:tpm:Ownership"),
  );
  const [resource] = found;
  if (resource === undefined || found.length > 1) {
    throw new UserError(
      `the state has ${resource === undefined ? "no" : "more than one"} ${what} of ${node}`,
      {
        hint: "is it the stack of that site, and is the node's name right?",
      },
    );
  }
  const { outputs = {} } = resource;
  const { recovery } = outputs;
  const text =
    kind === "volume"
      ? outputs["recoveryCiphertext"]
      : typeof recovery === "object" && recovery !== null
        ? (recovery as Readonly<Record<string, unknown>>)[name]
        : undefined;
  if (typeof text !== "string" || text === "") {
    throw new UserError(`the state has no recovery ciphertext of ${what} of ${node}`, {
      hint: "a refresh records what a node has, and a new card has none: take an earlier state, by `pulumi stack export --version N`, or from the backups of a backend of your own (.pulumi/backups, .pulumi/history)",
    });
  }
  const { recoveryKey } = outputs;
  return {
    ciphertext: Buffer.from(text, "base64"),
    recoveryKey: typeof recoveryKey === "string" ? recoveryKey : "",
  };
}
