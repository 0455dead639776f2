import * as pulumi from "@pulumi/pulumi";

export interface Registered {
  readonly type: string;
  readonly name: string;
  readonly inputs: Readonly<Record<string, unknown>>;
}

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
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs }) => {
        registered.push({ type, name, inputs: inputs as Registered["inputs"] });
        return { id: name, state: { ...(inputs as Record<string, unknown>), ...states[type] } };
      },
      call: ({ inputs }) => inputs as Record<string, unknown>,
    },
    "edgeseal",
    "test",
  );
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
