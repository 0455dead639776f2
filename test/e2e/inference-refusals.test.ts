import { readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  InferenceSupply,
  modelOf,
  mountPoint,
  serviceOf,
  startPrepared,
  stateOf,
  siteKey,
  type Supply,
} from "./inference-node.ts";
import { bringUp, driftOf, onPi, withProvider, type Declared } from "./provider-on-pi.ts";
import { readLayout } from "../../cli/image/archive.ts";

/*
 * What is not served, and what becomes of what served before.
 */

const supplies = new InferenceSupply();
let pi: VirtualPi;
let supply: Supply;
let service: ReturnType<typeof serviceOf>;

beforeAll(async () => {
  supply = await supplies.real();
  service = serviceOf(supply);
  pi = await startPrepared(supply, supplies.key);
  await bringUp(pi, service);
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  supplies[Symbol.dispose]();
});

const state = () => stateOf(pi, service);
const drift = () => driftOf(pi, service);

/** What an update fails with. */
const failure = (declared: Declared): Promise<string> =>
  bringUp(pi, declared).then(
    () => "it succeeded",
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );

test("an image that another key has signed is refused, with podman's words, and what serves goes on", async () => {
  const { image, archive } = supply;
  const layout = new Map(await readLayout(archive));
  layout.delete("signature-1");
  // Another image, by a label: what is in storage already would not be asked for.
  const other = await supplies.relabelled(layout, "2", siteKey());
  expect(other.image).not.toBe(image);
  const before = await onPi(pi, "systemctl show -P InvocationID edgeseal-inference");
  expect(await failure(serviceOf({ ...supply, ...other }))).toMatch(
    /podman does not take .*signature.*; have it signed by a key that the image policy of the node lists/,
  );
  expect(await onPi(pi, "systemctl show -P InvocationID edgeseal-inference")).toBe(before);
  expect(await drift()).toEqual([]);
});

test("a model that can't be served is gone back from: what served before serves again, and the update fails", async () => {
  const notAModel = await supplies.notAModel();
  await bringUp(pi, modelOf({ model: notAModel }, supplies.key));
  expect(await failure(serviceOf({ ...supply, model: notAModel }))).toMatch(
    /does not serve with what is declared: .*; what served before serves again/,
  );
  expect(await drift()).toEqual([]);
  await bringUp(pi, modelOf(supply, supplies.key));
});

test("a new model whose file is not what was signed is refused, and what serves goes on", async () => {
  const damaged = await supplies.notAModel("GGUF, damaged on its way");
  const content = readFileSync(damaged.file);
  content[3] = 0;
  writeFileSync(damaged.file, content);
  const before = await onPi(pi, "systemctl show -P InvocationID edgeseal-inference");
  expect(await failure(modelOf({ model: damaged }, supplies.key))).toContain(
    `and ${damaged.digest.slice("sha256:".length)} was expected`,
  );
  expect(await onPi(pi, "systemctl show -P InvocationID edgeseal-inference")).toBe(before);
  expect(await drift()).toEqual([]);
  expect(await driftOf(pi, modelOf(supply, supplies.key))).toEqual([]);
});

test("a model that was changed on the disk is not served, and the reason is told", async () => {
  const path = `${mountPoint}/models/${supply.model.digest.slice("sha256:".length)}/model.gguf`;
  await onPi(
    pi,
    `printf X | dd of=${path} bs=1 seek=1000000 conv=notrunc status=none; systemctl restart edgeseal-inference || :`,
  );
  const { health, reason } = await state();
  expect(health).toBe("not running");
  expect(reason).toMatch(/^model-differs: .* has the digest sha256:[0-9a-f]{64}, not the signed one/);
  expect(await failure(service)).toMatch(/does not serve: model-differs/);
  await bringUp(pi, modelOf(supply, supplies.key));
  await bringUp(pi, service);
});

test("a model that is changed on the disk while it is served: an update brings it anew, and starts with it what served the changed one", async () => {
  const path = `${mountPoint}/models/${supply.model.digest.slice("sha256:".length)}/model.gguf`;
  const invocation = (): Promise<string> => onPi(pi, "systemctl show -P InvocationID edgeseal-inference");
  const before = await invocation();
  await onPi(pi, `printf X | dd of=${path} bs=1 seek=1000000 conv=notrunc status=none`);
  await bringUp(pi, modelOf(supply, supplies.key));
  expect(await invocation()).not.toBe(before);
  await onPi(
    pi,
    `i=0
until /usr/lib/edgeseal/ask-inference /run/edgeseal-inference/http/http.sock /health 5 >/dev/null; do i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.5; done`,
  );
  expect(await drift()).toEqual([]);
  expect(await driftOf(pi, modelOf(supply, supplies.key))).toEqual([]);
});

test("while the volume is not mounted it does not start, and says so", async () => {
  await onPi(
    pi,
    `systemctl stop edgeseal-inference && umount ${mountPoint} && systemctl start edgeseal-inference || :`,
  );
  const { health, reason } = await state();
  expect({ health, reason }).toEqual({
    health: "not running",
    reason: `volume-not-mounted: ${mountPoint}/models is not on a mounted volume`,
  });
  expect(await failure(service)).toMatch(/on no mounted volume/);
  await onPi(pi, `mount ${mountPoint}`);
  await bringUp(pi, service);
});

test("taken back, its units and its user are gone, and the model stays", async () => {
  await withProvider(pi, service.kind, async (device) => {
    const observed = await device.observe(service.kind, service.inputs);
    const steps = service.kind.revert(service.inputs, observed as never);
    expect((await device.apply(service.kind, service.inputs, steps)).failure).toBeUndefined();
  });
  expect(
    await onPi(
      pi,
      "ls /etc/systemd/system | grep edgeseal-inference || :; getent passwd edgeseal-inference || echo nobody",
    ),
  ).toBe("nobody\n");
  await onPi(pi, `test -s ${mountPoint}/models/${supply.model.digest.slice("sha256:".length)}/model.gguf`);
});
