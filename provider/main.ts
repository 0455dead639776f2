import { runAsPlugin } from "./host/plugin-process.ts";
import { serve } from "./serve.ts";
import { packageVersion } from "./version.ts";

// The engine gives the address of its log as the only argument that is no flag.
const engineAddress = process.argv.slice(2).find((argument) => !argument.startsWith("-"));

const server = await serve({
  version: packageVersion(),
  kinds: async () => (await import("./registry.ts")).kinds,
  devices: async (kinds) => {
    const [{ createDevices }, { challengeTpmForSecret: challengeTpm }] = await Promise.all([
      import("./device/devices.ts"),
      import("./resources/tpm-challenge.ts"),
    ]);
    return createDevices({ kinds, challengeTpm });
  },
  engineAddress,
});
runAsPlugin(server);
