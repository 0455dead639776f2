import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import type { PulumiWorkspace } from "../pulumi.ts";

/** Lines for the person who watches. */
export interface Voice {
  say(line: string): void;
}

/** What the steps share: one node, one workspace, and a voice. */
export interface DemoContext extends Voice {
  readonly pi: VirtualPi;
  readonly pulumi: PulumiWorkspace;
  /** The checkout, for files such as `stacks/demo.yaml`. */
  readonly checkout: string;
  readonly signal: AbortSignal;
}

/** One step of the main job: says what it proves, does it, and throws `NotAsItShouldBe` at the first thing that is not as it should be. */
export interface DemoStep {
  readonly title: string;
  readonly proves: string;
  run(context: DemoContext): Promise<void>;
}

export class NotAsItShouldBe extends Error {
  override readonly name = "NotAsItShouldBe";
}

/** Shows what a command printed. */
export function show(voice: Voice, text: string): void {
  for (const line of text.trimEnd().split("\n")) voice.say(`      | ${line}`);
}

/** Says what holds, or stops the demo with what was found instead. */
export function holds(voice: Voice, condition: boolean, claim: string, found: string): void {
  if (!condition) throw new NotAsItShouldBe(`expected: ${claim}\nfound: ${found}`);
  voice.say(`  ok  ${claim}`);
}

/** The standard output of a command on the node, run as root from outside the provider. */
export async function onNode(context: DemoContext, script: string): Promise<string> {
  const result = await context.pi.exec(`sudo -n sh -c '${script.replaceAll("'", `'\\''`)}'`, {
    // An initramfs is built anew in half a minute on an idle machine.
    timeoutMs: 300_000,
  });
  if (result.code !== 0) {
    throw new NotAsItShouldBe(
      `on the node: exit status ${result.code} of: ${script}\n${result.stdout}${result.stderr}`,
    );
  }
  return result.stdout;
}
