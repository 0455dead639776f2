import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { nodesFolder } from "../../testbed/node-folder.ts";

/*
 * Ctrl-C of a command that has a node. A terminal sends SIGINT to every process of the foreground's group at once, and so does this: what the demo has
 * started (Pulumi, its provider) hears it, too.
 */

const main = new URL("../../cli/main.ts", import.meta.url).pathname;
let scratch: string;

beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), "edgeseal-ctrl-c-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

interface Interrupted {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Processes of the command when it was interrupted. */
  readonly ran: number;
}

/** Runs a command in a process group of its own, and interrupts that once it has said `when`. */
async function interrupted(args: readonly string[], when: RegExp): Promise<Interrupted> {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", main, ...args], {
    env: { ...process.env, TMPDIR: scratch },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  const { pid } = child;
  if (pid === undefined) throw new Error("the command did not start");
  let [stdout, stderr] = ["", ""];
  let sent: Promise<number> | undefined;
  const interrupt = async (): Promise<number> => {
    const { length } = await processesNaming(scratch);
    process.kill(-pid, "SIGINT");
    return length;
  };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    if (when.test(stdout)) sent ??= interrupt();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const [code] = (await once(child, "close")) as [number | null];
  if (sent === undefined) throw new Error(`ended before it said ${when.source}: ${stdout}${stderr}`);
  return { code, stdout, stderr, ran: await sent };
}

/** Command lines of processes that name one of these, in it or in their environment; a zombie has neither. */
async function processesNaming(...words: readonly string[]): Promise<readonly string[]> {
  const pids = (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry));
  const texts = await Promise.all(
    pids.map((pid) =>
      Promise.all(
        ["cmdline", "environ"].map((file) => readFile(`/proc/${pid}/${file}`, "utf8").catch(() => "")),
      ),
    ),
  );
  return texts
    .filter((text) => words.some((word) => text.join("\n").includes(word)))
    .map(([commandLine = ""]) => commandLine.replaceAll("\0", " "));
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

test.each([
  {
    what: "a demo, while Pulumi runs against its node",
    args: ["demo"],
    when: /it names 5\.egress-allowlist on pi-second/,
  },
  {
    what: "its second chapter, while the site's keys are made",
    args: ["demo", "trust-chain"],
    when: /on the console: EK digest/,
  },
])("of $what: 130, and no node, no process and no file is left", async ({ args, when }) => {
  const { code, stdout, stderr, ran } = await interrupted(args, when);
  // The demo itself, and Pulumi or the emulator at least.
  expect(ran).toBeGreaterThan(1);
  expect(stderr).toBe("edgeseal: interrupted; the virtual Pi is gone\n");
  expect(code).toBe(130);
  const name = /a fresh virtual Pi, (demo-[0-9a-f]{6}), is up/.exec(stdout)?.[1] ?? "";
  expect(name).not.toBe("");
  const folder = join(nodesFolder(), name);
  expect(await exists(folder)).toBe(false);
  expect(await processesNaming(`${folder}/`, scratch)).toEqual([]);
  expect(await readdir(scratch)).toEqual([]);
});
