import { describe, expect, test } from "vitest";
import {
  beginning,
  bootSteps,
  ending,
  holdsAlready,
  preparation,
  resumed,
} from "../../../cli/update/judge.ts";
import type { UpdateReading } from "../../../cli/update/read-update.ts";
import type { Step } from "../../../provider/device/step.ts";
import { approveState, parseApproval, signApproval } from "../../../provider/trust/approval.ts";
import { policyPcrDigest } from "../../../provider/trust/pcr-policy.ts";
import { fingerprint } from "../../../provider/trust/public-key.ts";
import { approved, events, site } from "../resources/sealed-volume-example.ts";
import { testKey } from "../trust/keys.ts";

/* What an update may do, case by case. Each refusal has its twin: the same reading but for what is wrong with it. */

const { key } = site;
const signing = { privateKey: key.privateKey, publicKey: key.publicKey };
const publicKey = { generation: 1, publicKeyPem: key.publicKeyPem };
const other = testKey("policy");

/** The state that the node is in, and the one that it is to boot; both are approved. */
const present = await approveState(signing, {
  events: events("pi-1"),
  reason: "a test",
  now: "2026-01-01T00:00:00Z",
});
const next = await approveState(signing, {
  events: events("pi-1").map((each) =>
    each.type === "cmdline" ? { ...each, digest: "0c".repeat(32) } : each,
  ),
  reason: "an update",
  now: "2026-01-02T00:00:00Z",
});
const approval = await signApproval(signing, { node: "pi-1", generation: 1, states: [present, next] });
const onlyNext = await signApproval(signing, { node: "pi-1", generation: 1, states: [next] });
const ofOtherKey = parseApproval((await approved("pi-1", 1, other)).approval);
const ofOtherNode = await signApproval(signing, {
  node: "pi-2",
  generation: 1,
  states: [
    await approveState(signing, { events: events("pi-2"), reason: "a test", now: "2026-01-01T00:00:00Z" }),
  ],
});

/** An approved node with its volumes open, a copy of what it is in, and no update under way. */
const good: UpdateReading = {
  phase: "none",
  reason: undefined,
  hasBooted: undefined,
  keptPolicy: policyPcrDigest(present.pcr11),
  approved: new Set([policyPcrDigest(present.pcr11)]),
  signedBy: new Set([fingerprint(key.publicKey)]),
  pcr11: present.pcr11,
  consistent: true,
  volumes: { models: true, logs: true },
  bootId: "1",
};

const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);

describe("before the boot", () => {
  const boot = (now: Partial<UpdateReading> = {}, wayBack = true, shipped = approval): readonly string[] =>
    titles(bootSteps({ ...good, ...now }, shipped, next.pcr11, wayBack ? 900 : undefined));

  test("the approval is shipped, the node told to go back, and rebooted into what is approved only", () => {
    const steps = bootSteps(good, approval, next.pcr11, 900);
    expect(titles(steps).slice(-3)).toEqual([
      "ship the approval",
      "have the node go back unless its volumes open, and the boot is confirmed within 900 s",
      "reboot into the approved state",
    ]);
    expect(steps.at(-1)).toMatchObject({ kind: "reboot", unapproved: "refuse" });
  });

  test("with --no-way-back the node is not told to go back, and needs no copy", () => {
    expect(boot({ keptPolicy: undefined }, false)).toEqual(
      boot().filter((title) => !title.startsWith("have the node go back")),
    );
  });

  test.each<[string, Partial<UpdateReading>, RegExp, typeof approval]>([
    ["there is no copy", { keptPolicy: undefined }, /has no copy of an approved boot partition/, approval],
    [
      "the copy would not open by what is shipped",
      {},
      /is not in the approval that would be shipped/,
      onlyNext,
    ],
    [
      "the copy is of what is to boot",
      { keptPolicy: policyPcrDigest(next.pcr11) },
      /is the very state that it is to boot/,
      approval,
    ],
    [
      "a volume is locked in an approved state",
      { volumes: { models: true, logs: false } },
      /^logs stays locked although this boot is an approved one/,
      approval,
    ],
  ])("is refused when %s; not with --no-way-back", (_, now, why, shipped) => {
    expect(() => boot(now, true, shipped)).toThrow(why);
    expect(boot(now, false, shipped).at(-1)).toBe("reboot into the approved state");
  });

  test("a volume that is locked in a state that nobody approved keeps nobody from leaving it", () => {
    expect(boot({ volumes: { models: false }, approved: new Set() }).at(-1)).toMatch(/^reboot/);
  });

  test.each([true, false])("another key's signatures are not taken away (with a way back: %s)", (wayBack) => {
    const signedBy = new Set([fingerprint(other.publicKey)]);
    expect(() => boot({ signedBy }, wayBack)).toThrow(/signatures of another policy key than generation 1/);
    // Some of the volumes were sealed anew, and some were not.
    const both = new Set([...good.signedBy, ...signedBy]);
    expect(() => boot({ signedBy: both }, wayBack)).toThrow(/another policy key/);
    // A node that was never approved has none.
    expect(boot({ signedBy: new Set() }, wayBack).at(-1)).toMatch(/^reboot/);
  });
});

describe("after the boot", () => {
  const booted: UpdateReading = {
    ...good,
    phase: "judging",
    hasBooted: true,
    pcr11: next.pcr11,
    bootId: "2",
  };
  const end = (after: Partial<UpdateReading> = {}) => ending({ ...booted, ...after }, next.pcr11);

  test("what was predicted is confirmed", () => {
    const { how, steps } = end();
    expect([how, titles(steps)]).toEqual(["confirmed", ["confirm the update"]]);
  });

  test("without a way back there is nothing to confirm, and the same to be seen", () => {
    expect(end({ phase: "none" })).toEqual({ how: "confirmed", steps: [] });
    expect(() => end({ phase: "none", pcr11: present.pcr11 })).toThrow(/something else booted/);
    expect(() => end({ phase: "none", volumes: { models: false } })).toThrow(/^locked: models/);
  });

  test.each<[string, Partial<UpdateReading>, RegExp]>([
    ["another value", { pcr11: present.pcr11 }, /was predicted and approved: something else booted/],
    ["a log that does not lead to it", { consistent: false }, /something else booted/],
    ["a locked volume", { volumes: { models: true, logs: false } }, /^locked: logs$/],
  ])("%s is not confirmed, and the node goes back", (_, after, why) => {
    expect(() => end(after)).toThrow(why);
    expect(() => end(after)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("goes back by itself") as unknown }) as Error,
    );
  });

  test("a node that went back is judged no more; one that is on its way is left to it", () => {
    const back = end({ phase: "back", pcr11: present.pcr11, volumes: { models: false } });
    expect([back.how, titles(back.steps)]).toEqual(["went-back", ["end the update that was under way"]]);
    expect(end({ phase: "restoring" })).toEqual({ how: "went-back", steps: [] });
  });

  describe("an earlier run's update", () => {
    const resume = (before: Partial<UpdateReading>, known: Parameters<typeof resumed>[1]) =>
      titles(resumed({ ...booted, ...before }, known, "pi-1", publicKey));

    test("is confirmed when what booted is in one's own approvals", () => {
      expect(resume({}, approval)).toEqual(["confirm the update"]);
    });

    test.each<[string, Partial<UpdateReading>, Parameters<typeof resumed>[1]]>([
      ["there are none", {}, undefined],
      ["they lack it", { pcr11: "12".repeat(32) }, approval],
      ["they are of another key", { pcr11: ofOtherKey.states[0]?.pcr11 ?? "" }, ofOtherKey],
      ["they are of another node", { pcr11: ofOtherNode.states[0]?.pcr11 ?? "" }, ofOtherNode],
      ["they were changed after they were signed", {}, { ...approval, generation: 2 }],
    ])("is not when %s", (_, before, known) => {
      expect(() => resume(before, known)).toThrow(/which your approvals do not have/);
    });

    test("is not when a volume is locked, or the log does not explain what booted", () => {
      expect(() => resume({ volumes: { models: false } }, approval)).toThrow(/^locked: models/);
      expect(() => resume({ consistent: false }, approval)).toThrow(/something else booted/);
    });
  });
});

describe("when it begins", () => {
  test.each<
    [string, Partial<UpdateReading>, ReturnType<typeof beginning>["how"], ReturnType<typeof beginning>["how"]]
  >([
    ["nothing under way", {}, "begin", "begin"],
    ["armed and not booted", { phase: "armed", hasBooted: false }, "begin", "begin"],
    ["booted, judging", { phase: "judging", hasBooted: true }, "resume", "waiting"],
    ["booted, not judged yet", { phase: "armed", hasBooted: true }, "resume", "waiting"],
    ["gone back", { phase: "back", hasBooted: true }, "went-back", "went-back"],
    ["going back", { phase: "restoring", hasBooted: true }, "went-back", "went-back"],
  ])("%s", (_, before, how, dry) => {
    expect(beginning({ ...good, ...before }, false).how).toBe(how);
    expect(beginning({ ...good, ...before }, true).how).toBe(dry);
  });

  test("an update that was gone back from is ended, but not by looking", () => {
    expect(beginning({ ...good, phase: "back" }, false)).toMatchObject({ steps: [{ kind: "run" }] });
    expect(beginning({ ...good, phase: "back" }, true)).toMatchObject({ steps: [] });
    expect(beginning({ ...good, phase: "restoring" }, false)).toMatchObject({ steps: [] });
  });

  const prepared = (before: Partial<UpdateReading>, wayBack: boolean, upgrade: boolean) =>
    preparation({ ...good, ...before }, { wayBack, upgrade }).map(({ step, mayFail }) => [
      step.title,
      mayFail,
    ]);
  const copy = ["keep a copy of the approved boot partition", true];
  const upgrading = ["upgrade the packages", false];

  test("packages are upgraded when it is asked for, after what would be gone back to was copied", () => {
    expect(prepared({}, true, true)).toEqual([copy, upgrading]);
    expect(prepared({}, true, false)).toEqual([copy]);
    expect(prepared({}, false, true)).toEqual([upgrading]);
    expect(prepared({}, false, false)).toEqual([]);
  });

  test("one that was armed and never booted is ended first: its copy could not be renewed", () => {
    expect(prepared({ phase: "armed" }, true, false)).toEqual([
      ["end the update that was under way", false],
      copy,
    ]);
  });
});

test.each<[string, Partial<UpdateReading>, boolean]>([
  ["it booted, approved and open", {}, true],
  ["another state booted", { pcr11: next.pcr11 }, false],
  ["the log does not explain it", { consistent: false }, false],
  ["the node has no approval of it", { approved: new Set() }, false],
  ["a volume is locked", { volumes: { models: true, logs: false } }, false],
])("whether nothing is left to do when %s", (_, now, nothing) => {
  expect(holdsAlready({ ...good, ...now }, present.pcr11)).toBe(nothing);
});
