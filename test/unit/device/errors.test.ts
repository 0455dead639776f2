import { describe, expect, test } from "vitest";
import { cancelled, DeviceError } from "../../../provider/device/errors.ts";
import { ChannelRefused, LostBefore } from "../../../provider/device/nothing-ran.ts";

describe("an error about a device says what, where, and the mend", () => {
  test("in this order, the device's own words in brackets", () => {
    const error = new DeviceError("denied", "pi-1", "it refused", {
      originalMessage: "no",
      hint: "ask again",
    });
    expect(error.message).toBe("pi-1: it refused (no); ask again");
  });

  test("and one without a mend does not compile", () => {
    // @ts-expect-error: the details have no hint
    const details: ConstructorParameters<typeof DeviceError>[3] = { originalMessage: "no" };
    expect(details).not.toHaveProperty("hint");
  });

  test.each([
    [cancelled("pi-1"), "pi-1: cancelled; run the operation again to go on from here"],
    [
      cancelled("pi-1", "while connecting"),
      "pi-1: cancelled while connecting; run the operation again to go on from here",
    ],
    [
      new LostBefore("pi-1", { originalMessage: "reset" }),
      "pi-1: the connection went away before the command was sent (reset); nothing was done; run the operation again once the device is reachable",
    ],
    [
      new ChannelRefused("pi-1"),
      "pi-1: sshd opens no further session on this connection; raise MaxSessions in the device's sshd_config (10 is its default), or allow sessions for this key",
    ],
  ])("%s", (error, message) => {
    expect(error.message).toBe(message);
  });
});
