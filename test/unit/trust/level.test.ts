import { describe, expect, test } from "vitest";
import { atLeast, levelReached, levels, type BootEvidence } from "../../../provider/trust/level.ts";

const best: BootEvidence = {
  volumesSealed: "yes",
  unsealingCapped: "yes",
  measuredInInitramfs: "yes",
  replay: "consistent",
  approved: "yes",
  signedBootLocked: "yes",
  rootIntegrity: "verity",
  quote: "not-checked",
};

describe("the level", () => {
  test("is measured on the best evidence that there is: no quote is checked yet", () => {
    expect(levelReached(best)).toEqual({
      level: "measured",
      lacking: ["a fresh quote checked off the device (not-checked: edgeseal does not check quotes yet)"],
    });
  });

  test.each<[string, Partial<BootEvidence>, string, RegExp]>([
    ["no volume", { volumesSealed: "no" }, "none", /^a volume whose key is sealed to this node's TPM$/],
    ["volumes not known", { volumesSealed: "unknown" }, "none", /not determined/],
    ["PCR 15 not extended", { unsealingCapped: "no" }, "none", /PCR 15/],
    ["PCR 15 not known", { unsealingCapped: "unknown" }, "none", /PCR 15.*not determined/],
    ["no measuring", { measuredInInitramfs: "no" }, "sealed", /in the initramfs/],
    ["measuring not known", { measuredInInitramfs: "unknown" }, "sealed", /in the initramfs.*not determined/],
    ["no log", { replay: "missing" }, "sealed", /an event log and a value of PCR 11/],
    ["a log that does not explain the value", { replay: "tampered" }, "sealed", /the log and the TPM differ/],
    ["a TPM that was not reset", { replay: "power-cycle" }, "sealed", /desync: power-cycle/],
    ["no approval", { approved: "no" }, "sealed", /an approval of the value/],
    ["an approval not known", { approved: "unknown" }, "sealed", /an approval.*not determined/],
    ["an unprotected root", { rootIntegrity: "none" }, "measured", /it has neither/],
    ["a root not known", { rootIntegrity: "unknown" }, "measured", /not determined/],
    ["signed boot that is not locked", { signedBootLocked: "no" }, "measured", /^signed boot locked in OTP$/],
  ])("with %s is not higher", (_, change, level, reason) => {
    const reached = levelReached({ ...best, ...change });
    expect(reached.level).toBe(level);
    expect(reached.lacking[0]).toMatch(reason);
  });

  test("is never higher for less evidence, whatever else there is", () => {
    const facts = ["yes", "no", "unknown"] as const;
    const replays = ["consistent", "power-cycle", "tampered", "missing"] as const;
    const roots = ["verity", "encrypted", "none", "unknown"] as const;
    let seen = 0;
    for (const volumesSealed of facts)
      for (const unsealingCapped of facts)
        for (const measuredInInitramfs of facts)
          for (const replay of replays)
            for (const approved of facts)
              for (const signedBootLocked of facts)
                for (const rootIntegrity of roots) {
                  const evidence = {
                    ...{ volumesSealed, unsealingCapped, measuredInInitramfs, replay, approved },
                    ...{ signedBootLocked, rootIntegrity, quote: "not-checked" as const },
                  };
                  const { level, lacking } = levelReached(evidence);
                  const sealed = volumesSealed === "yes" && unsealingCapped === "yes";
                  const measured =
                    sealed && measuredInInitramfs === "yes" && replay === "consistent" && approved === "yes";
                  expect(level).toBe(measured ? "measured" : sealed ? "sealed" : "none");
                  expect(lacking.length).toBeGreaterThan(0);
                  seen += 1;
                }
    expect(seen).toBe(3 ** 5 * 16);
  });

  test.each(["none", "", "Consistent", "toString", undefined])("takes a replay %j for none", (replay) => {
    const { level, lacking } = levelReached({ ...best, replay: replay as BootEvidence["replay"] });
    expect(level).toBe("sealed");
    expect(lacking).toEqual(["an event log and a value of PCR 11"]);
  });

  test("everything that lacks is told at once", () => {
    expect(levelReached({ ...best, volumesSealed: "no", unsealingCapped: "no" }).lacking).toHaveLength(2);
  });
});

test("levels are ordered", () => {
  for (const [rank, level] of levels.entries())
    for (const [other, wanted] of levels.entries()) expect(atLeast(level, wanted)).toBe(rank >= other);
});

test("what is no level is not reached, and nothing reaches it", () => {
  const none = "High" as (typeof levels)[number];
  for (const level of levels) {
    expect(atLeast(level, none)).toBe(false);
    expect(atLeast(none, level)).toBe(false);
  }
});
