import { createHash } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test, type TestContext } from "vitest";
import { LostBefore } from "../../../provider/device/nothing-ran.ts";
import { applyPlan, type ApplyPlanOptions } from "../../../provider/device/plan-runner.ts";
import { createSession, type Session } from "../../../provider/device/session.ts";
import { reboot, run, type Step } from "../../../provider/device/step.ts";
import type { ExecOptions, ExecResult, Link } from "../../../provider/device/transport.ts";
import { challengeTpmForSecret } from "../../../provider/resources/tpm-challenge.ts";
import { formsIn, formsOf } from "../../secret-forms.ts";
import { TpmRoot } from "../resources/tpm-root.ts";
import { softwareTpm, type SoftwareTpm } from "../trust/software-tpm.ts";

/*
 * A plan with a secret for one TPM: what the node, a folder with a TPM in software, gets of it. Scripts run there for real.
 */

const secret = "cAnArY-91c4e6d2a7";
const forms = formsOf("password", `puller:${secret}`);
const other = "ab".repeat(32);

let node: FakeNode;
let session: Session;
beforeEach(() => {
  node = new FakeNode();
  session = createSession({
    connection: { node: "pi-1", address: "192.0.2.1", port: 22, user: "root", hostKey: "" },
    transport: { connect: () => Promise.resolve(node.connect()) },
    backoffMs: 1,
    failureHoldMs: 0,
  });
});
afterEach(async () => {
  await session.close();
  node.root[Symbol.dispose]();
});

class FakeNode {
  readonly root = new TpmRoot();
  /** What arrived on standard input, by connection. */
  readonly received: string[][] = [];
  /** What is done to what it answers, and to its connection, after so many execs. */
  meddle: (stdout: string, execs: number, link: Link) => string = (stdout) => stdout;

  /** Whether the connections that there are lead nowhere any more. */
  silent = false;

  constructor() {
    this.root.write("/run/edgeseal/.keep", "");
  }

  get arrived(): string {
    return this.received.flat().join("\n");
  }

  get execs(): number {
    return this.received.flat().length;
  }

  connect(): Link {
    this.silent = false;
    const received: string[] = [];
    this.received.push(received);
    const link = {
      open: true,
      exec: (_: string, options: ExecOptions): Promise<ExecResult> => {
        link.open &&= !this.silent;
        if (!link.open) return Promise.reject(new LostBefore("pi-1"));
        received.push(options.stdin ?? "");
        const { code, stdout, stderr } = this.#run(options.stdin ?? "");
        const said = this.meddle(stdout, this.execs, link);
        options.onStdout?.(said);
        return Promise.resolve({ code, stdout: said, stderr });
      },
      close: () => {
        link.open = false;
        return Promise.resolve();
      },
    };
    return link;
  }

  #run(stdin: string): ExecResult & { code: number } {
    const nonce = /@%s started\\n' (\w+);/.exec(stdin)?.[1] ?? "";
    const script = stdin.slice(stdin.indexOf("\n") + 1);
    const { code, stdout, stderr } = this.root.sh(
      script.replaceAll(/\/(run|var\/lib)\/edgeseal/g, `${this.root.root}/$1/edgeseal`),
    );
    return { code, stdout: `\n@${nonce} started\n${stdout}`, stderr: `\n${stderr}\n` };
  }
}

const before = run({ title: "prepare", script: "true >/run/prepared" });
const login = (onlyToTpm?: string): Step =>
  run({
    title: "log in",
    script: "cat >/run/got",
    stdin: `puller:${secret}`,
    ...(onlyToTpm === undefined ? {} : { onlyToTpm }),
  });

const apply = (steps: readonly Step[], options: Partial<ApplyPlanOptions> = {}) =>
  applyPlan(session, steps, [], {
    purpose: "a test",
    owner: "tester",
    challengeTpm: challengeTpmForSecret,
    ...options,
  });

const done = { steps: [{ outcome: "done" }, { outcome: "done" }] };
const got = (): string | undefined => (node.root.exists("/run/got") ? node.root.read("/run/got") : undefined);

/** Holds that the node got nothing of the plan, by what was sent and by what was done there. */
function expectNothing(): void {
  expect(formsIn(node.arrived, forms)).toEqual([]);
  expect(node.arrived).not.toContain("prepare");
  expect({ got: got(), prepared: node.root.exists("/run/prepared") }).toEqual({
    got: undefined,
    prepared: false,
  });
}

test("without a TPM to be there the plan is sent at once, under the host key alone", async () => {
  expect(await apply([before, login()])).toMatchObject(done);
  expect(got()).toBe(`puller:${secret}`);
  expect(session.counts).toEqual({ connections: 1, execs: 1 });
});

describe("with a TPM to be there", () => {
  const tpmOf = softwareTpm();
  const otherTpmOf = softwareTpm();
  const digestOf = async (tpm: SoftwareTpm): Promise<string> => {
    await tpm.run("tpm2_createek", ..."-G rsa -c console.ctx -u console.pub".split(" "));
    return createHash("sha256")
      .update((await tpm.read("console.pub")).subarray(2))
      .digest("hex");
  };
  /** Puts the TPM into the node. @returns the digest of its endorsement key */
  const insert = async (context: TestContext): Promise<string> => {
    const tpm = tpmOf(context);
    node.root.insert(tpm);
    return await digestOf(tpm);
  };

  test("the plan is sent once that one has answered, over the same connection", async (context) => {
    const pinned = await insert(context);
    const progress: string[] = [];
    const result = await apply([before, login(pinned)], { onProgress: (title) => progress.push(title) });
    expect(result).toMatchObject(done);
    expect(got()).toBe(`puller:${secret}`);
    expect(node.received).toHaveLength(1);
    const [introduced = "", answered = "", plan = ""] = node.received[0] ?? [];
    expect(introduced).toContain("\nintroduce_tpm'");
    expect(answered).toContain("\nanswer_challenge'");
    expect(formsIn(introduced + answered, forms)).toEqual([]);
    expect(formsIn(plan, forms)).not.toEqual([]);
    expect(session.counts).toEqual({ connections: 1, execs: 3 });
    expect(progress).toEqual(["challenge the TPM, for: log in", "prepare", "log in"]);
  });

  test("one plan is challenged for once, and the next one again", async (context) => {
    const pinned = await insert(context);
    await apply([login(pinned), login(pinned)]);
    expect(session.counts.execs).toBe(3);
    await apply([before]);
    expect(session.counts.execs).toBe(4);
    await apply([login(pinned)]);
    expect(session.counts).toEqual({ connections: 1, execs: 7 });
  });

  test("another one gets nothing: both are named, and the mend", async (context) => {
    const shown = await insert(context);
    const pinned = await digestOf(otherTpmOf(context));
    await expect(apply([before, login(pinned)])).rejects.toMatchObject({
      kind: "refused",
      message: `pi-1: 'log in' was not done, nor anything else: what it sends is for the pinned TPM only, and pi-1 has another TPM: the digest of its endorsement key is ${shown}, and ${pinned} is pinned; if the TPM was replaced on purpose, compare the digest on the node's console, and pin it; nothing secret was sent`,
    });
    expectNothing();
  });

  test("another one that shows the key of the pinned one gets nothing", async (context) => {
    await insert(context);
    const tpm = otherTpmOf(context);
    const pinned = await digestOf(tpm);
    const shown = (await tpm.read("console.pub")).subarray(2).toString("hex");
    node.meddle = (stdout) => stdout.replace(/^endorsement-key .*$/m, `endorsement-key ${shown}`);
    await expect(apply([before, login(pinned)])).rejects.toThrow(/ did not answer the challenge: /);
    expect(node.execs).toBe(2);
    expectNothing();
  });

  test("a wrong answer gets nothing", async (context) => {
    const pinned = await insert(context);
    node.meddle = (stdout) => stdout.replace(/^answer .*$/m, `answer ${"00".repeat(32)}`);
    await expect(apply([before, login(pinned)])).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringMatching(/ is not what the challenge held; .* look at the node/) as string,
    });
    expect(node.execs).toBe(2);
    expectNothing();
  });

  test("a connection that goes away after the answer takes nothing with it, and no other is used", async (context) => {
    const pinned = await insert(context);
    node.meddle = (stdout, execs, link) => {
      if (execs === 2) void link.close();
      return stdout;
    };
    await expect(apply([before, login(pinned)])).rejects.toMatchObject({ kind: "unreachable" });
    expect(node.received.map(({ length }) => length)).toEqual([2]);
    expectNothing();
  });

  test("a connection that was dead already is made anew, and challenged on", async (context) => {
    const pinned = await insert(context);
    await apply([before]);
    // Its peer is gone, which only the next exec tells.
    node.silent = true;
    expect(await apply([login(pinned)])).toMatchObject({ steps: [{ outcome: "done" }] });
    expect(node.received.map(({ length }) => length)).toEqual([1, 3]);
  });
});

describe("a node", () => {
  test("without a TPM gets nothing", async () => {
    node.root.remove("/sys/class/tpm");
    await expect(apply([before, login(other)])).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringMatching(
        /: 'log in' was not done, .* pi-1 has no TPM 2\.0; on a Pi 5: dtparam=spi=on /,
      ) as string,
    });
    expectNothing();
  });

  test("without tpm2-tools gets nothing", async () => {
    node.meddle = (stdout) => stdout.replace(/^(@\w+ end) \d+$/m, "$1 67");
    await expect(apply([before, login(other)])).rejects.toThrow(
      /tpm2-tools are not installed on pi-1; run `sudo apt-get install --no-install-recommends tpm2-tools` there/,
    );
    expectNothing();
  });
});

describe("a plan that is malformed is not sent", () => {
  test.each<[string, readonly Step[], RegExp]>([
    ["for two TPMs", [login(other), login("cd".repeat(32))], /are for different TPMs/],
    [
      "with a secret that goes over another connection than the challenge",
      [reboot({ title: "reboot", waitSeconds: 60, afterwards: [login(other) as never] })],
      /'log in' comes after a reboot/,
    ],
  ])("%s", async (_, steps, why) => {
    await expect(apply(steps)).rejects.toThrow(why);
    expect(node.received).toEqual([]);
  });

  test("where no TPM can be challenged", async () => {
    const plan = applyPlan(session, [login(other)], [], { purpose: "a test", owner: "tester" });
    await expect(plan).rejects.toThrow(/none can be challenged/);
    expect(node.received).toEqual([]);
  });
});
