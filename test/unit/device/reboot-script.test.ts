import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { newNonce } from "../../../provider/device/batch.ts";
import { failureIn, lockedAfter } from "../../../provider/device/plan-failure.ts";
import { allowedRebootOf, parsePlanOutput } from "../../../provider/device/plan-output.ts";
import { stepsOf } from "../../../provider/device/plan-runner.ts";
import { renderAfterReboot, renderPlan } from "../../../provider/device/plan-script.ts";
import { approvalCheck } from "../../../provider/device/reboot-script.ts";
import { renderStep } from "../../../provider/device/render.ts";
import { tellOfNextBoot } from "../../../provider/resources/reboot-inputs.ts";
import { policyPcrDigest } from "../../../provider/trust/pcr-policy.ts";
import { replay } from "../../../provider/trust/pcr.ts";
import { commitConfirm, reboot, run, type Step } from "../../../provider/device/step.ts";
import { fingerprint, readPublicKey } from "../../../provider/trust/public-key.ts";
import { FakeRoot } from "../resources/fake-root.ts";
import { testKey } from "../trust/keys.ts";

const options = {
  nonce: newNonce(),
  changeNonce: newNonce(),
  owner: "me",
  purpose: "a test",
  lockWaitSeconds: 1,
};
const step = reboot({ title: "reboot it", waitSeconds: 60, precondition: "it's not even sh (" });
const probe = { id: "p", parts: { a: "echo 'a'" }, parse: () => undefined };
const trial = reboot({
  title: "try it",
  waitSeconds: 60,
  tryboot: true,
  approvedWith: "/it's there",
  prepare: { script: "(", undo: ")" },
});
const bootId = "0f0e0d0c-0b0a-4908-8706-050403020100";

test("both scripts parse", () => {
  const { script } = renderPlan([run({ title: "r", script: "(" }), step], [probe], options);
  execFileSync("/bin/sh", ["-n"], { input: script });
  const after = renderAfterReboot(
    [{ ...trial, afterwards: [run({ title: "r", script: "(" }), trial] }],
    [probe],
    { ...options, bootBefore: bootId, reboot: "0" },
  );
  execFileSync("/bin/sh", ["-n"], { input: after.script });
});

describe("a malformed plan is refused before anything is sent", () => {
  const change = commitConfirm({
    title: "change",
    apply: [],
    files: [],
    save: "",
    restore: "",
    rollbackTo: "",
  });
  test.each<[string, readonly Step[], string]>([
    [
      "a step after it",
      [step, run({ title: "r", script: "" })],
      "'reboot it' is a reboot, so it has to be the last",
    ],
    ["two of it", [step, step], "has to be the last step"],
    [
      "a commit-confirmed change before it",
      [change, step],
      "'change' is commit-confirmed, so it has to be the last",
    ],
    [
      "a commit-confirmed change after it",
      [step, change],
      "'reboot it' is a reboot, so it has to be the last",
    ],
    [
      "a step after it, in the boot after another",
      [{ ...step, afterwards: [step, run({ title: "r", script: "" })] }],
      "'reboot it' is a reboot, so it has to be the last",
    ],
    ["no time to wait", [{ ...step, waitSeconds: 9 }], "not a whole number of seconds from 10 to 3600: 9"],
    ["half a second", [{ ...step, waitSeconds: 10.5 }], "from 10 to 3600: 10.5"],
    ["hours", [{ ...step, waitSeconds: 3601 }], "from 10 to 3600: 3601"],
  ])("%s", (_, steps, message) => {
    expect(() => renderPlan(steps, [], options)).toThrow(message);
  });
});

test("what is done in which boot is told by the ids of the reboots", () => {
  const note = run({ title: "note", script: "" });
  const steps = [note, { ...step, afterwards: [note, { ...trial, afterwards: [note] }] }];
  expect(stepsOf(steps).map(({ id, phase, title }) => `${id} ${phase}: ${title}`)).toEqual([
    "0 step: note",
    "1 reboot: reboot it",
    "1:after:0 after: note",
    "1:after:1 after: try it",
    "1:after:1:after:0 after: note",
  ]);
  const pointsAfter = (id: string): readonly string[] =>
    renderAfterReboot(steps, [], { ...options, bootBefore: bootId, reboot: id }).points.map(
      (point) => point.id,
    );
  expect(pointsAfter("1")).toEqual(["1:after:0", "1:after:1"]);
  expect(pointsAfter("1:after:1")).toEqual(["1:after:1:after:0"]);
});

test("the deadline covers the wait for the shutdown", () => {
  const of = (waitSeconds: number): number =>
    renderPlan([{ ...step, waitSeconds }], [], options).deadlineSeconds;
  expect(of(600) - of(60)).toBe(540);
});

describe("how a reboot fails is told apart, with the mend", () => {
  const base64 = (text: string): string => Buffer.from(text).toString("base64");
  test.each([
    [
      "refused",
      `unapproved 0 3 ${base64("sealed volumes: models")}`,
      "pi-1: 'reboot it' was not done: the state that the next boot would measure has no approval on the node, so its sealed volumes would stay locked (sealed volumes: models); run `edgeseal approve pi-1`",
    ],
    [
      "refused",
      `approval-unknown 0 1 ${base64("measure --next failed")}`,
      "it can't be told whether the state that the next boot would measure is approved, and sealed volumes may stay locked (measure --next failed)",
    ],
    ["timedOut", "still-up 0 0 60", "the node was told to reboot and is still in the same boot after 60 s"],
    [
      "stepFailed",
      `failed 0 1 60 ${base64("Operation inhibited by dpkg")}`,
      "'reboot it' failed with exit status 1 (Operation inhibited by dpkg)",
    ],
  ])("%s: %s", (kind, line, message) => {
    const said = (text: string): string => `\n@${options.nonce} ${text}\n`;
    const output = parsePlanOutput(said("begin-step 0") + said(line), options.nonce);
    const failure = failureIn("pi-1", output, stepsOf([step]), undefined);
    expect(failure?.kind).toBe(kind);
    expect(failure?.message).toContain(message);
  });

  test("before a trial, it is the boot after it that has no approval, and another command's way is none", () => {
    const said = `\n@${options.nonce} begin-step 0\n\n@${options.nonce} unapproved 0 3 \n`;
    const output = parsePlanOutput(said, options.nonce);
    const message = failureIn("pi-1", output, stepsOf([trial]), undefined)?.message ?? "";
    expect(message).toContain("the state that the boot after the trial would measure has no approval");
    expect(message).toContain("run `edgeseal approve pi-1`");
    expect(message).not.toContain("edgeseal update");
  });

  test.each([
    ["allowed-unapproved", "so its sealed volumes will stay locked (sealed volumes: models)"],
    ["allowed-approval-unknown", "and its sealed volumes may stay locked (sealed volumes: models)"],
  ])("one that is allowed all the same is no failure, and is told: %s", (verb, message) => {
    const rest = `0 3 ${base64("sealed volumes: models\n")}`;
    const output = parsePlanOutput(`\n@${options.nonce} ${verb} ${rest}\n`, options.nonce);
    expect(output.failure).toBeUndefined();
    const allowed = allowedRebootOf({ verb, rest }) ?? expect.fail("not told");
    expect(lockedAfter("pi-1", "reboot it", allowed)).toMatch(/^pi-1: 'reboot it': /);
    expect(lockedAfter("pi-1", "reboot it", allowed)).toContain(message);
  });

  test("it is asked unless that was settled before", () => {
    const asks = (unapproved: "refuse" | "allow" | "unasked"): boolean =>
      renderPlan([{ ...step, unapproved }], [], options).script.includes("measure --next");
    expect([asks("refuse"), asks("allow"), asks("unasked")]).toEqual([true, true, false]);
  });

  test("what is no boot id proves no boot", () => {
    const of = (text: string): unknown =>
      parsePlanOutput(`\n@${options.nonce} booted ${text}\n`, options.nonce).booted;
    expect(of(bootId)).toBe(bootId);
    expect(of("")).toBeUndefined();
    expect(of("cat: Permission denied")).toBeUndefined();
  });
});

describe("whether the next boot is approved", () => {
  let root: FakeRoot;
  beforeEach(() => (root = new FakeRoot()));
  afterEach(() => root[Symbol.dispose]());

  const digests = ["a", "b"].map((text) => createHash("sha256").update(text).digest("hex"));
  const zeros = "0".repeat(64);
  const log = ["edgeseal-event-log 1", `start\t11\t${zeros}`].concat(
    `11\tnode\tpi-1\t${digests[0]}\tpi-1`,
    `11\tfile\tconfig.txt\t${digests[1]}\t`,
  );
  const policy = policyPcrDigest(replay(digests.map((digest) => ({ digest }))));

  const volume = (name = "models"): void =>
    root.write(`/etc/edgeseal/volumes/${name}.conf`, "device=/dev/x\n");
  /** The measuring program, whose prediction is these lines. */
  const predicts = (lines: readonly string[], status = 0): void => {
    root.write("/usr/lib/edgeseal/next", `${lines.join("\n")}\n`);
    root.write(
      "/usr/lib/edgeseal/measure",
      `#!/bin/sh
if [ "$*" = --next ]; then cat @ROOT/usr/lib/edgeseal/next; exit ${status}; fi
exec sh ${join(import.meta.dirname, "../../../provider/resources/on-device/measure")} "$@"
`,
    );
    chmodSync(join(root.root, "usr/lib/edgeseal/measure"), 0o755);
  };
  const approve = (digest: string): void =>
    root.write(
      "/etc/edgeseal/trust/approvals.json",
      JSON.stringify({ sha256: [{ pcrs: [11], pkfp: zeros, pol: digest, sig: "AA==" }] }),
    );
  const check = (): ReturnType<FakeRoot["sh"]> => root.sh(approvalCheck());

  test("nothing is asked of a node without sealed volumes", () => {
    predicts([], 1);
    expect(check()).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("where nothing measures, no boot is approved, whatever the signatures say", () => {
    volume();
    approve(policy);
    const nothing = "nothing measures a boot here: /usr/lib/edgeseal/measure is not there";
    expect(check()).toEqual({ code: 1, stdout: "", stderr: `sealed volumes: models; ${nothing}` });
  });

  test("a state with an approval is, one without is not", () => {
    volume("logs");
    volume();
    predicts(log);
    const refused = {
      code: 3,
      stdout: "",
      stderr: `sealed volumes: logs models; policy of the next boot: ${policy}`,
    };
    expect(check()).toEqual(refused);
    approve(zeros);
    expect(check()).toEqual(refused);
    approve(policy);
    expect(check()).toEqual({ code: 0, stdout: "", stderr: "" });
    predicts(log.slice(0, -1));
    expect(check().code).toBe(3);
  });

  test("an approval by another policy key than a volume is sealed to opens nothing of it", () => {
    const keys = [testKey("policy"), testKey("policy")] as const;
    const [own, other] = keys.map(({ publicKeyPem }) => fingerprint(readPublicKey(publicKeyPem, "policy")));
    const signedBy = (...by: readonly (string | undefined)[]): void =>
      root.write(
        "/etc/edgeseal/trust/approvals.json",
        JSON.stringify({ sha256: by.map((pkfp) => ({ pcrs: [11], pkfp, pol: policy, sig: "AA==" })) }),
      );
    const sealedTo = (name: string, { publicKeyPem }: (typeof keys)[number]): void => {
      // As the header's JSON may have it.
      const pinned = Buffer.from(publicKeyPem)
        .toString("base64")
        .replaceAll("/", String.raw`\/`);
      root.write(`/etc/edgeseal/volumes/${name}.pins`, `uuid=x\nfact tokens.0.tpm2_pubkey ${pinned}\n`);
    };
    for (const name of ["logs", "models"]) volume(name);
    sealedTo("logs", keys[0]);
    sealedTo("models", keys[0]);
    predicts(log);
    signedBy(own);
    expect(check()).toEqual({ code: 0, stdout: "", stderr: "" });
    signedBy(other);
    expect(check()).toEqual({
      code: 3,
      stdout: "",
      stderr: `sealed volumes: logs models; policy of the next boot: ${policy}; it is approved, by another policy key than they are sealed to: edgeseal volume recover`,
    });
    sealedTo("models", keys[1]);
    expect(check().stderr).toContain("sealed volumes: logs; policy");
    signedBy(own, other);
    expect(check().code).toBe(0);
  });

  test("where files are to be others by then, the prediction is with those", () => {
    volume();
    predicts(log.slice(0, -1));
    approve(policy);
    expect(check().code).toBe(3);
    root.write("/usr/lib/edgeseal/next-with", `${log.join("\n")}\n`);
    root.write(
      "/usr/lib/edgeseal/measure",
      root
        .read("/usr/lib/edgeseal/measure")
        .replaceAll("/usr/lib/edgeseal", "@ROOT/usr/lib/edgeseal")
        .replace(
          "#!/bin/sh\n",
          `#!/bin/sh\nif [ "$*" = "--next --with /it's there" ]; then exec cat @ROOT/usr/lib/edgeseal/next-with; fi\n`,
        ),
    );
    expect(root.sh(approvalCheck("/it's there"))).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("whoever may reboot a node that `up` changed is told what stays locked, and why", () => {
    const tell = (): ReturnType<FakeRoot["sh"]> => root.sh(renderStep(tellOfNextBoot()).script);
    expect(tell()).toEqual({ code: 0, stdout: "", stderr: "" });
    volume();
    const mend = "; approve it before a reboot: edgeseal update NODE";
    const unmeasured = "nothing measures a boot here: /usr/lib/edgeseal/measure is not there";
    expect(tell()).toMatchObject({
      code: 1,
      stderr: `it can not be told whether the next boot is an approved one, and sealed volumes may stay locked in it (sealed volumes: models; ${unmeasured})${mend}`,
    });
    predicts(log);
    expect(tell()).toMatchObject({
      code: 3,
      stderr: `the next boot would not be an approved one, and sealed volumes would stay locked (sealed volumes: models; policy of the next boot: ${policy})${mend}`,
    });
    predicts([]);
    expect(tell()).toMatchObject({ code: 1, stderr: expect.stringContaining("may stay locked") as string });
    predicts(log);
    approve(policy);
    expect(tell()).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("spaces in the signature file make no difference", () => {
    volume();
    predicts(log);
    root.write("/etc/edgeseal/trust/approvals.json", JSON.stringify({ sha256: [{ pol: policy }] }, null, 2));
    expect(check().code).toBe(0);
  });

  test.each<[string, readonly string[], number, string]>([
    ["it can't be predicted", log, 1, "measure --next failed"],
    ["the prediction is none", ["hello"], 0, "measure --policy failed"],
    ["an event has no digest", [...log, "11\tfile\tx\tno digest\t"], 0, "measure --policy"],
  ])("what can't be told is not approved: %s", (_, lines, status, message) => {
    volume();
    predicts(lines, status);
    approve(policy);
    const { code, stderr } = check();
    expect(code).toBe(1);
    expect(stderr).toContain(message);
  });
});
