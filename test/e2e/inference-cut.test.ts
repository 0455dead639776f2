import { afterAll, beforeAll, expect, test } from "vitest";
import type { Step } from "../../provider/device/step.ts";
import type { ModelState } from "../../provider/resources/model-observation.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { probeImage } from "./escape/image.ts";
import {
  InferenceSupply,
  modelOf,
  mountPoint,
  serviceOf,
  startPrepared,
  stateOf,
  type Supply,
} from "./inference-node.ts";
import { bringUp, cutEverywhere, observe, onPi, planFor, type Declared } from "./provider-on-pi.ts";

/*
 * The provider of a service killed before and after each of its steps, with real podman, systemd and AppArmor; what serves is the escape suite's small program, which starts at once.
 *
 * Under emulation a plan takes long, so the plan that follows a cut is itself cut off, at the next point: it has to get past the one before first. What it has to do is looked at each time: it is what is
 * left of the plan before, and no more. The plan after the last cut has nothing to do.
 *
 * Then another model, and the way back, which are two resources in turn: each with a provider of its own.
 */

const supplies = new InferenceSupply();
let pi: VirtualPi;
let model: Supply["model"];
let service: Declared;
/** The same service with another image. */
let exchanged: Declared;

beforeAll(async () => {
  model = await supplies.notAModel();
  const declaring = async (tag: string): Promise<Declared> => {
    const { layout, digest } = await probeImage({ tag });
    const signed = await supplies.signed(layout, digest, tag);
    return serviceOf({ ...signed, model }, { startTimeoutSeconds: 300 });
  };
  service = await declaring("1");
  exchanged = await declaring("2");
  pi = await startPrepared({ model }, supplies.key);
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  supplies[Symbol.dispose]();
});

/** Taking away what a cut has left comes and goes. */
const counts = (title: string): boolean => !title.startsWith("remove images and archives");

const titlesOf = (steps: readonly Step[]): readonly string[] =>
  steps.map(({ title }) => title).filter(counts);

const image = ({ inputs }: Declared): string | undefined =>
  /sha256:.*$/.exec((inputs as { readonly image: string }).image)?.[0];

test("a first start, cut off before and after each step, serves in the end", async () => {
  const titles = titlesOf(await planFor(pi, service));
  for (const each of [/^copy the image/, /^make the user/, /^take the image/, /^write /, /^start /])
    expect(titles).toContainEqual(expect.stringMatching(each));
  const seen = await cutEverywhere(pi, service, { counts });
  expect(seen[0]).toBe(`before '${titles[0] ?? ""}'`);
  for (const title of titles) expect(seen).toContain(`before '${title}'`);
  expect(await stateOf(pi, service)).toMatchObject({ health: "healthy", image: image(service) });
}, 2_400_000);

test("an exchange of the image, cut off before and after each step: the former one serves up to the start, and the new one from then on", async () => {
  const seen = await cutEverywhere(pi, exchanged, {
    counts,
    afterwards: async ({ title }) => {
      const state = await stateOf(pi, exchanged);
      const serves = title.startsWith("remove images") ? exchanged : service;
      expect(state, `at the cut by '${title}'`).toMatchObject({ health: "healthy", image: image(serves) });
    },
  });
  for (const each of [/^before 'copy the image/, /^before 'take the image/, /^before 'write /])
    expect(seen).toContainEqual(expect.stringMatching(each));
  expect(seen.slice(-3)).toEqual([
    expect.stringMatching(/^before 'start edgeseal-inference\.service/),
    expect.stringMatching(/^before 'remove images/),
    expect.stringMatching(/^after 'remove images/),
  ]);
}, 2_400_000);

test("an exchange of the model: the former one serves and stays until the new one serves, and its digest leads back, with nothing sent", async () => {
  const other = await supplies.notAModel("GGUF, another one");
  const serving = ({ digest }: Supply["model"]): Declared => ({
    ...exchanged,
    inputs: { ...exchanged.inputs, model: digest },
  });
  /** What serves, what counts, and what is on the volume. */
  const found = async (): Promise<object> => {
    const { health, model: served } = await stateOf(pi, exchanged);
    const { digest, inUse, former } = await observe<ModelState>(pi, modelOf({ model: other }, supplies.key));
    const files = await onPi(pi, `cd ${mountPoint}/models && sha256sum */model.gguf`);
    const held = files
      .split("\n")
      .flatMap((line) => line.match(/^([0-9a-f]{64}) {2}\1\/model\.gguf$/)?.[1] ?? []);
    return { health, served, counts: digest, inUse, former, held: held.map((hex) => `sha256:${hex}`).sort() };
  };
  const both = [model.digest, other.digest].sort();
  const as = (served: Supply["model"], counts: Supply["model"]): object => ({
    health: "healthy",
    served: served.digest,
    counts: counts.digest,
    inUse: [served.digest],
    former: { [model.digest]: "verified" },
    held: both,
  });
  await bringUp(pi, serving(model));
  // None that is not in use is kept.
  const declared = modelOf({ model: other }, supplies.key, 0);
  await bringUp(pi, declared);
  expect(await found()).toEqual(as(model, other));
  await bringUp(pi, serving(other));
  expect(await found()).toEqual(as(other, other));
  expect(titlesOf(await planFor(pi, declared)), "once it does not serve any more").toEqual([
    `remove the former model ${model.digest.slice(7, 19)}`,
  ]);

  const { file: _, ...withoutFile } = model;
  const back = modelOf({ model: withoutFile }, supplies.key);
  expect(titlesOf(await planFor(pi, back))).toEqual([
    `let ${model.digest.slice(7, 19)} be the model inference that counts`,
  ]);
  await bringUp(pi, back);
  expect(await found()).toEqual(as(other, model));
  await bringUp(pi, serving(model));
  expect(await found()).toEqual(as(model, model));
}, 1_800_000);
