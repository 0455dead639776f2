import { expect } from "vitest";
import type { Connection } from "../../provider/connection.ts";
import { createDevices } from "../../provider/device/devices.ts";
import { diffState } from "../../provider/diff.ts";
import { kinds } from "../../provider/registry.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";

/** A resource as a program declares it. */
export interface Declared {
  readonly kind: ResourceKind;
  readonly inputs: object;
}

export const kindOf = (token: string): ResourceKind =>
  kinds.find((kind) => kind.token === token) ?? expect.fail(`no kind ${token}`);

function connectionTo(pi: VirtualPi): Connection {
  const { host, ...login } = pi.ssh;
  return { node: "pi", address: host, ...login };
}

/**
 * Brings a resource to its desired state as a provider of its own does, one observation and one plan, and holds that nothing is left to do.
 * @param onStep told the title of each step as it begins
 */
export async function bringUp(
  pi: VirtualPi,
  { kind, inputs }: Declared,
  onStep: (title: string) => void = () => undefined,
): Promise<void> {
  const devices = createDevices({ kinds: [kind] });
  try {
    const device = devices.get(connectionTo(pi));
    let observed = await device.observe(kind, inputs);
    const route = await device.route();
    const steps = kind.plan(inputs as never, observed as never, route);
    if (steps.length > 0) {
      const applied = await device.apply(kind, inputs, steps, { onProgress: onStep });
      expect(applied.failure, `the plan of ${kind.token}`).toBeUndefined();
      observed = applied.observed;
    }
    expect(kind.plan(inputs as never, observed as never, route), `what is left to do`).toEqual([]);
    if (observed.outcome === "absent") expect.fail(`${kind.token} is absent after its plan`);
    expect(diffState(kind.desired(inputs as never), observed.state as object)).toEqual([]);
  } finally {
    await devices.close();
  }
}

/** Standard output of a command that root runs on the node, from outside the provider. */
export async function onPi(pi: VirtualPi, script: string): Promise<string> {
  const { code, stdout, stderr } = await pi.exec(`sudo -n sh -c '${script.replaceAll("'", `'\\''`)}'`, {
    timeoutMs: 300_000,
  });
  expect(code, `${script}\n${stdout}${stderr}`).toBe(0);
  return stdout;
}
