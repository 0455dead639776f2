import { DeviceError } from "./errors.ts";
import type { Transport } from "./transport.ts";

/**
 * A transport that makes one connection, and no other once that is made: for what has to go over the very connection that a challenge was answered on. Where it goes away, whoever wanted
 * another gets `refused`, which no session tries again.
 */
export function oneConnection(transport: Transport): Transport {
  let made = false;
  return {
    async connect(connection, options) {
      if (made) {
        throw new DeviceError("refused", connection.node, "the connection to the node went away", {
          hint: "nothing is sent over another one, whose TPM was not challenged; run it again, and it goes on from here",
        });
      }
      const link = await transport.connect(connection, options);
      made = true;
      return link;
    },
  };
}
