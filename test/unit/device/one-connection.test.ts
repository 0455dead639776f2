import { expect, test } from "vitest";
import type { Connection } from "../../../provider/connection.ts";
import { DeviceError } from "../../../provider/device/errors.ts";
import { oneConnection } from "../../../provider/device/one-connection.ts";
import { createSession } from "../../../provider/device/session.ts";
import type { Link, Transport } from "../../../provider/device/transport.ts";

const connection: Connection = { node: "pi-1", address: "192.0.2.1", port: 22, user: "root", hostKey: "" };

test("a connection that was made is the only one; one that was not made is tried again", async () => {
  let attempts = 0;
  const links: Link[] = [];
  const transport: Transport = {
    connect: async () => {
      await Promise.resolve();
      attempts += 1;
      if (attempts === 1) throw new DeviceError("unreachable", "pi-1", "sshd restarts", { hint: "wait" });
      const link = {
        open: true,
        exec: () => Promise.reject(new Error("not asked")),
        close() {
          this.open = false;
          return Promise.resolve();
        },
      };
      links.push(link);
      return link;
    },
  };
  const session = createSession({
    connection,
    transport: oneConnection(transport),
    backoffMs: 1,
    failureHoldMs: 0,
  });
  await session.connect();
  expect(attempts).toBe(2);
  await links[0]?.close();
  const again = session.connect();
  await expect(again).rejects.toMatchObject({ kind: "refused" });
  await expect(again).rejects.toThrow(
    "the connection to the node went away; nothing is sent over another one",
  );
  expect(attempts).toBe(2);
  await session.close();
});
