import * as pulumi from "@pulumi/pulumi";

export interface Registered {
  readonly type: string;
  readonly name: string;
  readonly inputs: Readonly<Record<string, unknown>>;
  /** Names of the resources that the engine is told to have there first. */
  readonly after: readonly string[];
}

/** As much of the engine's protocol (RegisterResourceRequest) as is looked at. */
interface Request {
  getName(): string;
  getDependenciesList(): string[];
}

const nameOf = (urn: string): string => urn.split("::").at(-1) ?? "";

/**
 * Pulumi without an engine: takes note of what a program registers. Outputs are the inputs, and what is said of the type.
 * @param states outputs by type
 */
export async function recorder(
  config: Record<string, string> = {},
  secrets: readonly string[] = [],
  states: Readonly<Record<string, object>> = {},
) {
  const registered: Registered[] = [];
  const after = new Map<string, readonly string[]>();
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs }) => {
        registered.push({ type, name, inputs: inputs as Registered["inputs"], after: after.get(name) ?? [] });
        return { id: name, state: { ...(inputs as Record<string, unknown>), ...states[type] } };
      },
      call: ({ inputs }) => inputs as Record<string, unknown>,
    },
    "edgeseal",
    "test",
  );
  // Mocks are not told of dependencies; the monitor is.
  const monitor = pulumi.runtime.getMonitor();
  if (monitor === undefined) throw new Error("mocks without a monitor");
  const register = monitor.registerResource.bind(monitor) as (
    request: Request,
    ...rest: unknown[]
  ) => unknown;
  Object.assign(monitor, {
    registerResource: (request: Request, ...rest: unknown[]) => {
      after.set(request.getName(), request.getDependenciesList().map(nameOf));
      return register(request, ...rest);
    },
  });
  pulumi.runtime.setAllConfig(config, [...secrets]);
  return {
    registered,
    /** Resolves when everything registered so far has been. */
    settled: async () => {
      await pulumi.runtime.disconnect();
    },
  };
}

/** The value of an output, and whether it is a secret. */
export async function valueOf<T>(
  output: pulumi.Output<T>,
): Promise<{ readonly value: T; readonly secret: boolean }> {
  const value = await new Promise<T>((resolve) => {
    output.apply(resolve);
  });
  return { value, secret: await pulumi.isSecret(output) };
}
