import { createDevices } from "../../../provider/device/devices.ts";
import { runAsPlugin } from "../../../provider/host/plugin-process.ts";
import { serve } from "../../../provider/serve.ts";
import { kinds } from "../thirty-kinds.ts";

/** The provider as users run it, device layer included, with the thirty kinds of the tests in place of its own. */
const server = await serve({
  version: "0.0.1",
  kinds: () => Promise.resolve(kinds),
  devices: () => Promise.resolve(createDevices({ kinds })),
  engineAddress: process.argv.slice(2).find((argument) => !argument.startsWith("-")),
});
runAsPlugin(server);
