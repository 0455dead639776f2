import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { expect } from "vitest";
import type { Connection } from "../../provider/connection.ts";
import type { Device } from "../../provider/device/device.ts";
import { createDevices, type DevicesOptions } from "../../provider/device/devices.ts";
import { stepsOf, type Breakpoint } from "../../provider/device/plan-runner.ts";
import type { PlanPoint } from "../../provider/device/plan-points.ts";
import type { Step } from "../../provider/device/step.ts";
import { diffState } from "../../provider/diff.ts";
import { kinds } from "../../provider/registry.ts";
import type { ResourceKind } from "../../provider/resource.ts";
import { challengeTpmForSecret } from "../../provider/resources/tpm-challenge.ts";
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

/** Lets a provider of its own, with connections of its own, do something to the node. */
export async function withProvider<T>(
  pi: VirtualPi,
  kind: ResourceKind,
  work: (device: Device) => Promise<T>,
  options: Pick<DevicesOptions, "breakpoint" | "transport"> = {},
): Promise<T> {
  const devices = createDevices({ kinds: [kind], challengeTpm: challengeTpmForSecret, ...options });
  try {
    return await work(devices.get(connectionTo(pi)));
  } finally {
    await devices.close();
  }
}

/** What a refresh reads of a resource that has to be there. */
export const observe = <S>(pi: VirtualPi, { kind, inputs }: Declared): Promise<S> =>
  withProvider(pi, kind, async (device) => {
    const observed = await device.observe<S>(kind, inputs);
    return observed.outcome === "present" ? observed.state : expect.fail(`${kind.token} was not observed`);
  });

/** Another kernel without a reset of the board, and so of the TPM: what a warm reboot may be to a TPM on a bus. */
export async function kexec(pi: VirtualPi): Promise<void> {
  await onPi(
    pi,
    "kexec --load /boot/firmware/kernel_2712.img --initrd=/boot/firmware/initramfs_2712 --reuse-cmdline",
  );
  const from = pi.console.position();
  // The connection may go before the answer comes.
  await pi.exec("sudo systemctl kexec").catch(() => undefined);
  await pi.console.waitFor(/^testbed: boot \S+ is ready/m, { from, timeoutMs: 300_000 });
}

/** The steps that lead from what is found now to the desired state. */
export const planFor = (pi: VirtualPi, { kind, inputs }: Declared): Promise<readonly Step[]> =>
  withProvider(pi, kind, async (device) => {
    const observed = await device.observe(kind, inputs);
    return kind.plan(inputs as never, observed as never, await device.route());
  });

/**
 * Brings a resource to its desired state as a provider of its own does, one observation and one plan, and holds that nothing is left to do.
 * @param onStep told the title of each step as it begins
 * @param options of the provider's connections
 */
export async function bringUp(
  pi: VirtualPi,
  { kind, inputs }: Declared,
  onStep: (title: string) => void = () => undefined,
  options: Pick<DevicesOptions, "transport"> = {},
): Promise<void> {
  const work = async (device: Device): Promise<void> => {
    let observed = await device.observe(kind, inputs);
    const route = await device.route();
    const steps = kind.plan(inputs as never, observed as never, route);
    if (steps.length > 0) {
      const applied = await device.apply(kind, inputs, steps, { onProgress: onStep });
      if (applied.failure !== undefined) throw applied.failure;
      observed = applied.observed;
    }
    expect(kind.plan(inputs as never, observed as never, route), `what is left to do`).toEqual([]);
    if (observed.outcome === "absent") expect.fail(`${kind.token} is absent after its plan`);
    expect(diffState(kind.desired(inputs as never), observed.state as object)).toEqual([]);
  };
  await withProvider(pi, kind, work, options);
}

/** A moment of a plan at which it is cut off. */
export interface Cut extends Pick<Breakpoint, "at" | "when">, Pick<PlanPoint, "phase" | "title"> {}

/**
 * Every moment before and after a point of a plan; the points are the runner's own list. On the device, after a point is before the next one: between them the script
 * runs nothing but the breakpoint, so each such moment is in the list once, as the latter. Only the end of a change differs: before the confirmation the device has noted
 * that the change is complete, and it is another exec, over another connection.
 */
export function cutsOf(steps: readonly Step[]): readonly Cut[] {
  return stepsOf(steps).flatMap(({ id, phase, title }, index, points): Cut[] => {
    const next = points[index + 1];
    const cut = (when: Cut["when"]): Cut => ({ at: id, when, phase, title });
    return next === undefined || next.phase === "confirm" ? [cut("before"), cut("after")] : [cut("before")];
  });
}

export const nameOf = ({ when, title }: Cut): string => `${when} '${title}'`;

const program = join(import.meta.dirname, "killed-provider.ts");

/** Kills a provider, a process of its own, at a point of its plan; returns once it is gone. */
export async function killProviderAt(cut: Cut, pi: VirtualPi, { kind, inputs }: Declared): Promise<void> {
  const words = [connectionTo(pi), kind.token, inputs, [cut.at, cut.when]].map((each) =>
    JSON.stringify(each),
  );
  const end = await new Promise<{ readonly signal: string | undefined; readonly said: string }>((resolve) => {
    execFile(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", program, ...words],
      (error, stdout, stderr) => resolve({ signal: error?.signal ?? undefined, said: stdout + stderr }),
    );
  });
  expect(end, `the provider that is to be killed ${nameOf(cut)}`).toEqual({ signal: "SIGKILL", said: "" });
}

/** The properties that a refresh would show. */
export const driftOf = async (pi: VirtualPi, declared: Declared): Promise<readonly string[]> =>
  diffState(declared.kind.desired(declared.inputs as never), await observe<object>(pi, declared)).map(
    ({ path }) => path,
  );

/**
 * Kills the provider at each point of a plan in turn, the one after the last time, until nothing is left to do, and holds that each plan is what is left of the one before.
 * @param options `afterwards` is done after each cut; steps for which `counts` says no may come and go
 * @returns the points, as they came
 */
export async function cutEverywhere(
  pi: VirtualPi,
  declared: Declared,
  options: {
    readonly afterwards?: (cut: Cut) => Promise<void>;
    readonly counts?: (title: string) => boolean;
  } = {},
): Promise<readonly string[]> {
  const titlesOf = (steps: readonly Step[]): readonly string[] =>
    steps.map(({ title }) => title).filter(options.counts ?? (() => true));
  const seen: string[] = [];
  let left = await planFor(pi, declared);
  while (left.length > 0) {
    // Some steps, such as for a folder, are in the plan as long as what they serve is not done.
    const cut =
      cutsOf(left).find((each) => !seen.includes(nameOf(each))) ??
      expect.fail(`a plan that was run to its end is not done: ${titlesOf(left).join(", ")}`);
    await killProviderAt(cut, pi, declared);
    await options.afterwards?.(cut);
    seen.push(nameOf(cut));
    const rest = await planFor(pi, declared);
    const what = `left to do after one that was cut off ${nameOf(cut)}`;
    expect(titlesOf(left), what).toEqual(expect.arrayContaining([...titlesOf(rest)]));
    expect(titlesOf(rest).length, what).toBeLessThanOrEqual(titlesOf(left).length);
    left = rest;
  }
  expect(await driftOf(pi, declared)).toEqual([]);
  return seen;
}

/**
 * Applies steps, and cuts the power at a point of them; the node is off then.
 * @param meanwhile what is done on the node while the plan stands at that point
 */
export async function cutPowerAt(
  cut: Cut,
  pi: VirtualPi,
  { kind, inputs }: Declared,
  steps: readonly Step[],
  meanwhile: () => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  let off: Promise<void> | undefined;
  const reached = (): void => {
    off = meanwhile().finally(() => pi.powerCut());
    // Told below, once the plan has failed.
    off.catch(() => undefined);
  };
  await withProvider(
    pi,
    kind,
    (device) => expect(device.apply(kind, inputs, steps)).rejects.toMatchObject({ node: "pi" }),
    { breakpoint: { at: cut.at, when: cut.when, reached } },
  );
  expect(off, `the plan came to ${nameOf(cut)}`).toBeDefined();
  await off;
}

/** Applies steps, and cuts the power as soon as the one with that title begins; the node is off then. */
export async function cutPowerWithin(
  title: string,
  pi: VirtualPi,
  { kind, inputs }: Declared,
  steps: readonly Step[],
): Promise<void> {
  let off: Promise<void> | undefined;
  const onProgress = (step: string): void => {
    if (step === title) off ??= pi.powerCut();
  };
  await withProvider(pi, kind, (device) =>
    expect(device.apply(kind, inputs, steps, { onProgress })).rejects.toMatchObject({ node: "pi" }),
  );
  expect(off, `the plan came to '${title}'`).toBeDefined();
  await off;
}

/** Standard output of a command that root runs on the node, from outside the provider. */
export async function onPi(pi: VirtualPi, script: string): Promise<string> {
  const { code, stdout, stderr } = await pi.exec(`sudo -n sh -c '${script.replaceAll("'", `'\\''`)}'`, {
    timeoutMs: 300_000,
  });
  expect(code, `${script}\n${stdout}${stderr}`).toBe(0);
  return stdout;
}

/** The digest of the TPM's endorsement key, as a person reads it on the console. */
export async function endorsementKeyOf(pi: VirtualPi): Promise<string> {
  const area = await onPi(
    pi,
    "cd $(mktemp -d) && tpm2_createek -Q -G rsa -c ek -u ek.pub && tail -c +3 ek.pub | base64 -w 0",
  );
  return createHash("sha256").update(Buffer.from(area, "base64")).digest("hex");
}
