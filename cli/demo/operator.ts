import { randomBytes } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { said, type RunResult } from "../pulumi.ts";
import { holds, NotAsItShouldBe, show, type DemoContext } from "./step.ts";
import { nodeName } from "./site.ts";

/*
 * What the operator of the site does: `pulumi up`, and edgeseal's own commands, in a folder with the site file and, outside of it, the keys.
 */

/** Where the keys and their passphrase are, from the project's folder on. */
export const keyWords = ["--keys", "../keys", "--passphrase-file", "../passphrase"] as const;

/** Runs `edgeseal COMMAND...`, and shows what it prints. */
export async function edgeseal(context: DemoContext, ...words: readonly string[]): Promise<RunResult> {
  const result = await context.pulumi.edgeseal(words, { signal: context.signal });
  // How long a boot takes is said once for each step.
  show(context, said(result).replaceAll(/^ +waiting for \S+ to come back, [1-9]\d* s\n/gm, ""));
  return result;
}

/** A command on the demo's node, as `edgeseal COMMAND... NODE ...`, with the site file and the keys. Nobody is asked. */
export const onDemoNode = (context: DemoContext, command: readonly string[], ...more: readonly string[]) =>
  edgeseal(context, ...command, nodeName, "--site", "stacks/demo.yaml", ...keyWords, "--yes", ...more);

/** Holds that a command ended well. */
export function succeeded(context: DemoContext, claim: string, result: RunResult): void {
  const seconds = (result.milliseconds / 1000).toFixed(1);
  holds(context, result.code === 0, `${claim} (${seconds} s)`, `exit status ${result.code}\n${said(result)}`);
}

/** Makes the site's policy and recovery key, and a passphrase for them. */
export async function makeKeys(context: DemoContext): Promise<void> {
  const passphrase = `${randomBytes(24).toString("base64url")}\n`;
  await writeFile(join(context.pulumi.folder, "passphrase"), passphrase, { mode: 0o600 });
  succeeded(
    context,
    "edgeseal keys new makes the site's policy and recovery key",
    await edgeseal(context, "keys", "new", "../keys", "--site", "demo", "--passphrase-file", "../passphrase"),
  );
}

export async function pulumiUp(context: DemoContext, claim: string): Promise<void> {
  const up = await context.pulumi.run(["up", "--yes", "--stack", "demo"], { signal: context.signal });
  succeeded(context, `pulumi up ${claim}`, up);
}

/**
 * The digest of the TPM's endorsement key, as a person reads it on the node's console: by the script that `edgeseal node console-script` prints.
 * @throws NotAsItShouldBe when it is not told
 */
export async function endorsementKeyOnConsole(context: DemoContext): Promise<string> {
  const { stdout: script } = await context.pulumi.edgeseal(["node", "console-script"], {
    signal: context.signal,
  });
  const { stdout, stderr } = await context.pi.exec("sudo -n sh -s", { stdin: script });
  const digest = /^EK digest +([0-9a-f]{64})$/m.exec(stdout)?.[1];
  if (digest === undefined)
    throw new NotAsItShouldBe(`the first-contact script tells no EK digest:\n${stdout}${stderr}`);
  context.say(`      on the console: EK digest ${digest}`);
  return digest;
}
