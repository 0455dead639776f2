import { describe, expect, test } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import { routeProbe } from "../../../provider/device/route.ts";

const parse = (stdout: string): unknown => routeProbe.parse({ connection: { code: 0, stdout, stderr: "" } });

describe("the way in", () => {
  test.each([
    [
      "192.0.2.7 50000 192.0.2.1 22\n",
      { clientAddress: "192.0.2.7", clientPort: 50000, serverAddress: "192.0.2.1", serverPort: 22 },
    ],
    [
      "fd00::7 50000 fd00::1 2222\n",
      { clientAddress: "fd00::7", clientPort: 50000, serverAddress: "fd00::1", serverPort: 2222 },
    ],
    [
      "fe80::7%eth0 50000 fe80::1%eth0 22\n",
      { clientAddress: "fe80::7", clientPort: 50000, serverAddress: "fe80::1", serverPort: 22 },
    ],
    [
      "UNKNOWN 65535 UNKNOWN 65535\n",
      { clientAddress: undefined, clientPort: undefined, serverAddress: undefined, serverPort: undefined },
    ],
    [
      "\n",
      { clientAddress: undefined, clientPort: undefined, serverAddress: undefined, serverPort: undefined },
    ],
  ])("%j", (text, state) => {
    expect(parse(text)).toEqual({ outcome: "present", state });
  });

  test.each(["192.0.2.7\n", "a b c d e\n", "not-an-address 1 192.0.2.1 22\n"])(
    "%j is not guessed from",
    (text) => {
      expect(() => parse(text)).toThrow(UnknownObservation);
    },
  );

  test("that the device did not tell is not an empty one", () => {
    expect(() => routeProbe.parse({})).toThrow(UnknownObservation);
  });
});
