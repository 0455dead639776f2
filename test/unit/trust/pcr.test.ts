import { describe, expect, test } from "vitest";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { extend, replay, zeroPcr } from "../../../provider/trust/pcr.ts";
import { softwareTpm } from "./software-tpm.ts";

const a = sha256Hex("a");
const b = sha256Hex("b");

describe("extending", () => {
  test("gives what a TPM gave", () => {
    // tpm2_pcrextend 11:sha256=ca97...48bb on a fresh swtpm.
    expect(a).toBe("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
    expect(extend(zeroPcr, a)).toBe("8c374a53782642f7514d087d26a3e733f1b806009a03e04a43b288ef2fa9f9c0");
  });

  test("depends on the order", () => {
    expect(replay([{ digest: a }, { digest: b }])).not.toBe(replay([{ digest: b }, { digest: a }]));
    expect(replay([{ digest: a }, { digest: b }])).toBe(extend(extend(zeroPcr, a), b));
  });

  test("goes on from any value, and no event leaves it as it is", () => {
    expect(replay([], b)).toBe(b);
    expect(replay([{ digest: a }], b)).toBe(extend(b, a));
  });

  test.each(["", a.toUpperCase(), `${a}0`, a.slice(1), `0x${a.slice(2)}`, ` ${a.slice(1)}`])(
    "refuses %j, of which Buffer.from would silently drop a part",
    (digest) => {
      expect(() => extend(zeroPcr, digest)).toThrow(TypeError);
      expect(() => extend(digest, a)).toThrow(TypeError);
    },
  );
});

describe("a TPM", () => {
  const aTpm = softwareTpm();

  test("has the replayed value after the same events", async (context) => {
    const tpm = aTpm(context);
    const digests = Array.from({ length: 5 }, (_, index) => sha256Hex(`event ${index}`));
    for (const digest of digests) await tpm.run("tpm2_pcrextend", `11:sha256=${digest}`);
    const printed = await tpm.run("tpm2_pcrread", "sha256:11");
    expect(printed.toLowerCase()).toContain(`0x${replay(digests.map((digest) => ({ digest })))}`);
  });
});
