import { PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import { Interrupted, readLine } from "../../../cli/ask.ts";

/** Types keys, in these pieces, and gives the line and what was shown. */
async function typing(...pieces: readonly string[]): Promise<{ line: string; shown: string }> {
  const input = new PassThrough();
  let shown = "";
  const reading = readLine(input, (text) => (shown += text));
  for (const piece of pieces) input.write(piece);
  return { line: await reading, shown };
}

describe("a line", () => {
  test("ends at Enter, however it comes in", async () => {
    expect((await typing("open sesame\r")).line).toBe("open sesame");
    expect((await typing("o", "pen ", "sesame", "\n")).line).toBe("open sesame");
    expect((await typing("\r")).line).toBe("");
  });

  test("may have any letter, also one that comes in two pieces", async () => {
    const input = new PassThrough();
    const reading = readLine(input, () => undefined);
    const bytes = Buffer.from("ü😀\r");
    for (const byte of bytes) input.write(Buffer.from([byte]));
    expect(await reading).toBe("ü😀");
  });

  test("forgets what Backspace and Ctrl-U take back", async () => {
    expect((await typing("abx\u007fc\r")).line).toBe("abc");
    expect((await typing("\u007f\u007fa😀\ba\r")).line).toBe("aa");
    expect((await typing("wrong\u0015right\r")).line).toBe("right");
  });

  test("takes no other control characters: arrow keys are not a part of a passphrase", async () => {
    expect((await typing("a\u001b\u0001b\r")).line).toBe("ab");
  });

  test("shows what is typed, and takes it back, where it is asked to", async () => {
    expect((await typing("yex\u007fs\r")).shown).toBe("yex\b \bs");
  });

  test.each([
    ["Ctrl-C", "abc\u0003"],
    ["Ctrl-D", "\u0004"],
  ])("is interrupted by %s", async (_, keys) => {
    await expect(typing(keys)).rejects.toThrow(Interrupted);
  });

  test("is interrupted when the terminal goes away", async () => {
    const input = new PassThrough();
    const reading = readLine(input, () => undefined);
    input.end("abc");
    await expect(reading).rejects.toThrow("the terminal went away");
  });
});
