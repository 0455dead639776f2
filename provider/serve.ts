import type { Devices } from "./device/device.ts";
import { startServer, type RunningServer } from "./host/server.ts";
import type { Handler } from "./host/handler.ts";
import type { ResourceKind } from "./resource.ts";

export interface ServeOptions {
  /** Semantic version of the package. */
  readonly version: string;
  /** Loaded at the first call that is about a resource: the engine starts providers that it then asks nothing of. */
  readonly kinds: () => Promise<readonly ResourceKind[]>;
  /** Made at the first call that needs a device. */
  readonly devices: (kinds: readonly ResourceKind[]) => Promise<Devices>;
  /** Address of the engine's log, when it came on the command line. */
  readonly engineAddress?: string | undefined;
  /** How long a cancelled call may take to report what it had changed, in milliseconds. Default 4000. */
  readonly graceMs?: number;
}

const description =
  "Raspberry Pi 5 generative-AI nodes as declarative, observed, enforced state: over SSH, without an agent, read back in effect.";

/** The provider on a loopback port, in this process. */
export function serve(options: ServeOptions): Promise<RunningServer> {
  const { version, engineAddress, graceMs } = options;
  const kinds = lazily(options.kinds);
  const devices = lazily(async () => await options.devices(await kinds.get()));
  const handlers = lazily(async (): Promise<ReadonlyMap<string, Handler>> => {
    const [{ lifecycle }, all] = await Promise.all([import("./lifecycle.ts"), kinds.get()]);
    return new Map(all.map((kind) => [kind.token, lifecycle(kind, devices.get)]));
  });
  return startServer({
    name: "edgeseal",
    version,
    handlers: handlers.get,
    engineAddress,
    ...(graceMs === undefined ? {} : { graceMs }),
    packageSchema: async () => {
      const { packageSchema } = await import("./host/schema.ts");
      const all = [...(await handlers.get()).values()];
      return packageSchema({ name: "edgeseal", version, description, handlers: all });
    },
    close: async () => (await devices.made)?.close(),
  });
}

/** A value made at its first use; made again at the next use when that failed. */
function lazily<T>(make: () => Promise<T>): {
  readonly get: () => Promise<T>;
  readonly made: Promise<T> | undefined;
} {
  let made: Promise<T> | undefined;
  return {
    get: () =>
      (made ??= make().catch((error: unknown) => {
        made = undefined;
        throw error;
      })),
    get made() {
      return made;
    },
  };
}
