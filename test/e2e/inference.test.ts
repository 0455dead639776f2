import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diffState } from "../../provider/diff.ts";
import type { InferenceContainerState } from "../../provider/resources/inference-container-state.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  completion,
  confinementOf,
  InferenceSupply,
  modelOf,
  mountPoint,
  plainVolume,
  prepared,
  serviceOf,
  siteKey,
  type Supply,
} from "./inference-node.ts";
import { bringUp, observe, onPi, withProvider, type Declared } from "./provider-on-pi.ts";
import { readLayout } from "../../cli/image/archive.ts";

/*
 * A real model, served in a container whose confinement is read from its process: brought up, asked, taken apart in each of the ways that a refresh has to name, and mended.
 */

const supplies = new InferenceSupply();
let pi: VirtualPi;
let supply: Supply;
let service: ReturnType<typeof serviceOf>;

beforeAll(async () => {
  supply = await supplies.real();
  service = serviceOf(supply);
  pi = await VirtualPi.start();
  await plainVolume(pi);
  await prepared(pi, supply, supplies.key);
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
  supplies[Symbol.dispose]();
});

const state = (): Promise<InferenceContainerState> => observe<InferenceContainerState>(pi, service);
/** The properties that a refresh would show. */
const drift = async (): Promise<readonly string[]> =>
  diffState(service.kind.desired(service.inputs as never), await state()).map(({ path }) => path);

/** What an update fails with. */
const failure = (declared: Declared): Promise<string> =>
  bringUp(pi, declared).then(
    () => "it succeeded",
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );

/** Seconds of the node's clock until it answers. */
const untilHealthy = async (): Promise<number> =>
  Number(
    await onPi(
      pi,
      `read -r from _ </proc/uptime
i=0
until /usr/lib/edgeseal/ask-inference /run/edgeseal-inference/http/http.sock /health 5 >/dev/null; do i=$((i + 1)); [ $i -lt 300 ] || exit 1; sleep 0.5; done
read -r now _ </proc/uptime
echo $((\${now%.*} - \${from%.*}))`,
    ),
  );

test("from a node with a volume, a model and its profiles to an answer of the real model", async () => {
  await bringUp(pi, service);
  expect(await completion(pi, "The capital of France is", 3)).toMatch(/^ [a-z]/i);
});

test("what holds of the process, as the kernel has it", async () => {
  const { confinement, exposure, image, model, health } = await state();
  expect({ health, image, model }).toEqual({
    health: "healthy",
    image: supply.image.slice(supply.image.indexOf("@") + 1),
    model: supply.model.digest,
  });
  expect(confinement).toMatchObject({
    user: "edgeseal-inference",
    capabilities: "none",
    seccomp: "profile",
    appArmor: "edgeseal-inference and edgeseal-inference-podman (enforce)",
    rootFilesystem: "read-only",
    interfaces: "lo",
    swapMax: "0 MiB",
    modelLocked: "all",
  });
  // systemd calls what is below 4 "OK".
  expect(Object.keys(exposure)).toHaveLength(3);
  for (const [unit, figure] of Object.entries(exposure)) expect(Number(figure), unit).toBeLessThan(4);
});

describe("drift is named by a refresh, and mended by an update", () => {
  test.each<[string, string, readonly string[]]>([
    ["the user is added to video", "usermod -aG video edgeseal-inference", ["groups"]],
    [
      "an override is dropped in",
      `mkdir -p /etc/systemd/system/edgeseal-inference.service.d
printf '[Service]\\nMemoryMax=infinity\\n' >/etc/systemd/system/edgeseal-inference.service.d/x.conf
systemctl daemon-reload
until [ "$(cat /sys/fs/cgroup/system.slice/edgeseal-inference.service/memory.max)" = max ]; do sleep 0.5; done`,
      ["unitOverrides", "confinement.memoryMax"],
    ],
    [
      "another container is started by hand",
      `image=$(sed -n 's/^ExecStart=.* \\([^ ]*@sha256:[^ ]*\\) .*/\\1/p' /etc/systemd/system/edgeseal-inference.service)
systemd-run --quiet --wait --pipe -p User=edgeseal-inference -E HOME=/usr/lib/edgeseal/no-home -E XDG_RUNTIME_DIR=/run/edgeseal-inference -E XDG_CONFIG_HOME=/run/edgeseal-inference/config -E XDG_DATA_HOME=/run/edgeseal-inference/data \\
  podman --root ${mountPoint}/containers/inference --runroot /run/edgeseal-inference/storage --storage-opt ignore_chown_errors=true --cgroup-manager cgroupfs --events-backend none create --name by-hand --network none --user 0:0 "$image" >/dev/null 2>&1
systemd-run --quiet -p User=edgeseal-inference sleep 1000`,
      ["foreignContainers", "foreignProcesses"],
    ],
    [
      "it is stopped",
      "systemctl stop edgeseal-inference",
      ["health", "reason", "image", "model", 'units["edgeseal-inference.service"]'],
    ],
  ])("%s", async (_, script, paths) => {
    await onPi(pi, script);
    expect(await drift()).toEqual(expect.arrayContaining([...paths]));
    await bringUp(pi, service);
    expect(await drift()).toEqual([]);
  });

  test("its profile is unloaded: the process is found unconfined", async () => {
    await onPi(pi, "apparmor_parser -R /etc/apparmor.d/edgeseal-inference");
    expect(await drift()).toEqual(["confinement.appArmor"]);
    // Without the profile nothing starts, rather than unconfined.
    expect(await failure(service)).toMatch(/edgeseal-inference\.service does not serve/);
    await bringUp(pi, confinementOf().appArmor);
    await bringUp(pi, service);
    expect(await drift()).toEqual([]);
  });
});

test("a server that is killed comes back", async () => {
  await onPi(pi, "pkill -KILL -x llama-server && sleep 1");
  console.info(`serving again after SIGKILL: ${await untilHealthy()} s`);
  const { restarts, health } = await state();
  expect({ restarts, health }).toEqual({ restarts: 1, health: "healthy" });
});

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

test("after a reboot it serves again without a person", async () => {
  await pi.reboot();
  const rest = await untilHealthy();
  console.info(
    `serving again after a reboot, at an uptime of ${(await onPi(pi, "cut -d. -f1 /proc/uptime")).trim()} s, ${rest} s after ssh answered`,
  );
  expect(await drift()).toEqual([]);
  expect(await completion(pi, "The capital of France is", 2)).not.toBe("");
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
