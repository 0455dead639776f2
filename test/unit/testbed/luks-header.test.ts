import { expect, test } from "vitest";
import { headerDifferences, readHeader } from "../../../provider/resources/sealed-volume-header.ts";
import { editLuksHeaders, luksHeadersBytes } from "../../../testbed/luks-header.ts";
import { realHeaders } from "../resources/luks-headers/real.ts";

const facts = (bytes: Buffer): readonly string[] => readHeader(bytes)?.facts ?? expect.fail("no header");

/** The second copy, as the first is read. */
function secondOf(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes.subarray(luksHeadersBytes / 2, luksHeadersBytes));
  copy.write("LUKS", 0, "latin1");
  return editLuksHeaders(Buffer.concat([copy, copy]), (json) => json);
}

test("both copies say what they were made to say, under checksums that hold, and nothing else is changed", () => {
  const bytes = realHeaders();
  const edited = editLuksHeaders(bytes, (json) => json.replace('"stripes":4000', '"stripes":4001'));
  for (const copy of [edited, secondOf(edited)])
    expect(headerDifferences(facts(bytes), facts(copy))).toEqual([
      "key slot 0: af.stripes is 4001, pinned 4000",
    ]);
  expect(edited.subarray(luksHeadersBytes)).toEqual(bytes.subarray(luksHeadersBytes));
  expect(editLuksHeaders(bytes, (json) => json)).toEqual(bytes);
});

test("what is no LUKS2 header, or would be too long for one, is refused", () => {
  const bytes = realHeaders();
  expect(() => editLuksHeaders(Buffer.alloc(luksHeadersBytes), (json) => json)).toThrow("no LUKS2 header");
  expect(() => editLuksHeaders(bytes.subarray(0, 20_000), (json) => json)).toThrow("at 16384");
  expect(() => editLuksHeaders(bytes, (json) => json.padEnd(12_288))).toThrow("too many");
});
