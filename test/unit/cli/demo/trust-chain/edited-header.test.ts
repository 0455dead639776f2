import { expect, test } from "vitest";
import { rounds } from "../../../../../cli/demo/trust-chain/edited-header.ts";
import { headerDifferences, readHeader } from "../../../../../provider/resources/sealed-volume-header.ts";
import { editLuksHeaders } from "../../../../../testbed/luks-header.ts";
import { realHeaders } from "../../../resources/luks-headers/real.ts";

const header = realHeaders();
/** Of before a rotation: the same with a lower epoch. */
const older = editLuksHeaders(header, (json) => json);
older.writeBigUInt64BE(header.readBigUInt64BE(16) - 1n, 16);
const forged = editLuksHeaders(header, (json) => json.replace(/("digest":")[^"]*/, "$1QUFB"));

const tried = rounds(
  editLuksHeaders(older, (json) => json),
  forged,
);
const all = tried.flatMap((round) => Object.values(round));

const facts = (bytes: Buffer): readonly string[] => readHeader(bytes)?.facts ?? expect.fail("no header");

test.each(all)(
  "$what leaves a header that can be read, and differs in what the step expects",
  ({ edit, why }) => {
    const edited = edit(header);
    expect(edited).toHaveLength(header.length);
    expect(`header-differs: ${headerDifferences(facts(header), facts(edited)).join("; ")}`).toMatch(why);
  },
);

test("no attack's difference is taken for another's", () => {
  for (const { why } of all) {
    const matching = all.filter(({ edit }) =>
      why.test(`header-differs: ${headerDifferences(facts(header), facts(edit(header))).join("; ")}`),
    );
    expect(matching.map((each) => each.why)).toEqual([why]);
  }
});

test("another key slot opens as the recovery key's does: its area is a copy of that", () => {
  const attack = all.find(({ what }) => what === "another key slot") ?? expect.fail("it is not tried");
  const json = (bytes: Buffer): Record<string, { area: { offset: string; size: string } }> =>
    (JSON.parse(bytes.toString("utf8", 4096, bytes.indexOf(0, 4096))) as { keyslots: never }).keyslots;
  const edited = attack.edit(header);
  const [added] = Object.keys(json(edited)).filter((slot) => !(slot in json(header)));
  const areaOf = (slot: string): Buffer => {
    const { offset, size } = json(edited)[slot]?.area ?? expect.fail(`no slot ${slot}`);
    return edited.subarray(Number(offset), Number(offset) + Number(size));
  };
  expect(areaOf(added ?? "")).toEqual(areaOf("0"));
  expect(areaOf("0")).toEqual(header.subarray(32_768, 32_768 + areaOf("0").length));
});

test("each volume has its own header in a boot after it was attacked", () => {
  expect(tried.at(-1)).not.toHaveProperty("logs");
});
