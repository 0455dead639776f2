import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { renderStep, type PlainStep } from "../../../provider/device/render.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { inferenceContainer } from "../../../provider/resources/inference-container.ts";
import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";
import type { InferenceContainerState } from "../../../provider/resources/inference-container-state.ts";
import { sha256Hex } from "../../../provider/trust/digest.ts";
import { Choices } from "./generated-states.ts";
import { example } from "./inference-container-example.ts";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const wanted: InferenceContainerInputs = { ...example, port: 8080, cpuQuotaPercent: 300 };
const digest = `sha256:${"a".repeat(64)}`;

/** The state in which nothing is left to do. */
const good: InferenceContainerState = {
  ...(inferenceContainer.desired(wanted) as InferenceContainerState),
  images: [digest],
  modelPresent: true,
  volumes: {
    "/srv/models/models": "/srv/models, encrypted",
    "/srv/models/containers/inference": "/srv/models, encrypted",
  },
  exposure: {},
  restarts: 0,
};
/** A node on which only the volume and the model are. */
const fresh: InferenceContainerState = {
  ...good,
  health: "not running",
  reason: "it was not started, or was stopped",
  image: "",
  model: "",
  confinement: {},
  account: {},
  directories: {},
  files: {},
  units: {},
  images: [],
};

const planFor = (state: InferenceContainerState, inputs = wanted): readonly Step[] =>
  inferenceContainer.plan(inputs, { outcome: "present", state }, route);
const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);
const differences = (state: InferenceContainerState): readonly string[] =>
  diffState(inferenceContainer.desired(wanted), state).map(({ path }) => path);
const start = "start edgeseal-inference.service, and wait until it answers (600 s at most)";

test("on a fresh node: the user, the storage, the image, the units, and then it is waited for", () => {
  expect(titles(planFor(fresh)).filter((title) => !title.startsWith("write "))).toEqual([
    "make /usr/lib/edgeseal",
    "make /usr/lib/edgeseal/no-home, the home of services, in which nothing is",
    "make the user edgeseal-inference, who can't log in",
    "make /srv/models/containers/inference, the service's own",
    `take the image registry.example/edge/llama@${digest}, if the node's policy lets it in`,
    "make /usr/lib/edgeseal",
    "have edgeseal-inference.service and edgeseal-inference-health.timer and edgeseal-inference-port.socket start at boot",
    start,
  ]);
});

test("where all is as it should be, nothing is done", () => {
  expect(differences(good)).toEqual([]);
  expect(planFor(good)).toEqual([]);
});

test("every step is one that the device can run", () => {
  for (const step of planFor({
    ...fresh,
    foreignContainers: ["x of y"],
    groups: ["video"],
    lingering: true,
    subordinateIds: ["/etc/subuid: x"],
    groupMembers: ["edge"],
  }))
    expect(() => renderStep(step as PlainStep), step.title).not.toThrow();
});

describe("drift is named by what it means, and mended", () => {
  test.each<[string, Partial<InferenceContainerState>, readonly string[], readonly string[]]>([
    [
      "another image that was started by hand",
      { foreignContainers: ["x of sha256:c"], foreignProcesses: ["sleep in /user.slice"] },
      ["foreignContainers", "foreignProcesses"],
      ["end what edgeseal-inference runs beside its service, and remove its other containers", start],
    ],
    ["a server that does not answer", { health: "no answer" }, ["health"], [start]],
    [
      "a server that reads its model: it is waited for, and not started anew",
      { health: "loading" },
      ["health"],
      ["wait until edgeseal-inference.service, which reads its model, answers (600 s at most)"],
    ],
    [
      "one that reads its model under no profile",
      { health: "loading", confinement: { ...good.confinement, appArmor: "unconfined" } },
      ["health", "confinement.appArmor"],
      [start],
    ],
    [
      "a profile that was unloaded",
      { confinement: { ...good.confinement, appArmor: "unconfined" } },
      ["confinement.appArmor"],
      [start],
    ],
    [
      "a drop-in",
      { unitOverrides: ["/etc/systemd/system/edgeseal-inference.service.d/x.conf"] },
      ["unitOverrides"],
      [
        "remove /etc/systemd/system/edgeseal-inference.service.d/x.conf, which changes a unit of edgeseal's",
        "have systemd read its units anew start at boot",
        start,
      ],
    ],
    [
      "a user in video",
      { groups: ["video"] },
      ["groups"],
      ["take edgeseal-inference out of every other group, and everybody out of its own", start],
    ],
    [
      "somebody who was let in to the socket",
      { groupMembers: ["edge"] },
      ["groupMembers"],
      ["take edgeseal-inference out of every other group, and everybody out of its own"],
    ],
    [
      "a shell",
      { account: { ...good.account, shell: "/bin/bash" } },
      ["account.shell"],
      ["make the user edgeseal-inference, who can't log in", start],
    ],
    [
      "a service that was stopped",
      {
        health: "not running",
        reason: "it was not started, or was stopped",
        units: { ...good.units, "edgeseal-inference.service": "enabled, inactive" },
      },
      ["health", "reason", 'units["edgeseal-inference.service"]'],
      [start],
    ],
    [
      "a service that no boot would start",
      { units: { ...good.units, "edgeseal-inference.service": "disabled, active" } },
      ['units["edgeseal-inference.service"]'],
      ["have edgeseal-inference.service start at boot", start],
    ],
    ["another model", { model: `sha256:${"c".repeat(64)}` }, ["model"], [start]],
  ])("%s", (_, change, paths, steps) => {
    const state = { ...good, ...change };
    expect(differences(state)).toEqual(paths);
    expect(titles(planFor(state))).toEqual(
      steps.map((title) => title.replace(" start at boot", title.includes("anew") ? "" : " start at boot")),
    );
  });
});

describe("refused, with the mend", () => {
  test("while the volume is not mounted, with the reason that the boot left", () => {
    const state = {
      ...fresh,
      reason: "volume-not-mounted: the sealed volume models stays locked: pcr11-not-approved",
      volumes: { ...good.volumes, "/srv/models/models": "not mounted" },
    };
    expect(() => planFor(state)).toThrow(PlanRefused);
    expect(() => planFor(state)).toThrow(
      /^\/srv\/models\/models: on no mounted volume \(volume-not-mounted: .*pcr11-not-approved\); .*mount it first/,
    );
  });

  test("without the model", () => {
    expect(() => planFor({ ...fresh, modelPresent: false })).toThrow(
      /is not in \/srv\/models\/models on the node; declare it there/,
    );
  });

  test("with an archive that can't be read", () => {
    expect(() => planFor(fresh, { ...wanted, archive: "/nowhere/llama.tar" })).toThrow(
      /can't be read: ENOENT.*edgeseal image sign/,
    );
    // Only where it is needed.
    expect(
      titles(planFor({ ...good, health: "no answer" }, { ...wanted, archive: "/nowhere/llama.tar" })),
    ).toEqual([start]);
  });
});

test("an archive is copied first, with its digest, and taken from the folder that the policy names", () => {
  const folder = mkdtempSync(join(tmpdir(), "edgeseal-archive-"));
  try {
    const archive = join(folder, "llama.tar");
    writeFileSync(archive, "an archive");
    const steps = planFor(fresh, { ...wanted, archive });
    expect(steps[0]).toMatchObject({
      kind: "upload",
      source: archive,
      bytes: 10,
      sha256: sha256Hex("an archive"),
      mode: "0600",
    });
    const pull = steps.find(({ title }) => title.startsWith("take the image"));
    expect(pull).toMatchObject({
      script: expect.stringContaining(`dir:/var/lib/edgeseal/images/${"a".repeat(64)}`) as string,
    });
    const fromRegistry = planFor(fresh).find(({ title }) => title.startsWith("take the image"));
    expect(fromRegistry).toMatchObject({
      script: expect.stringContaining(`docker://registry.example/edge/llama@${digest}`) as string,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("without a port the units of a former one go", () => {
  const { port: _, ...without } = wanted;
  const steps = inferenceContainer.plan(without, { outcome: "present", state: good }, route);
  expect(titles(steps)).toContain(
    "stop and remove edgeseal-inference-port.service, edgeseal-inference-port.socket",
  );
});

test("a plan is empty exactly when nothing differs", () => {
  for (let seed = 0; seed < 500; seed++) {
    const choices = new Choices(seed);
    const pick: Choices["mostly"] = (...values) => choices.mostly(...values);
    const state: InferenceContainerState = {
      ...good,
      health: pick("healthy", "loading", "no answer"),
      reason: pick("", "systemd says: oom-kill"),
      image: pick(good.image, "", "unknown"),
      model: pick(good.model, ""),
      confinement: pick(good.confinement, {}, { ...good.confinement, seccomp: "off" }),
      account: pick(good.account, {}, { ...good.account, password: "not locked" }),
      groups: pick<string[]>([], ["docker", "video"]),
      groupMembers: pick<string[]>([], ["edge"]),
      subordinateIds: pick<string[]>([], ["/etc/subuid: edgeseal-inference:1:65536"]),
      lingering: pick(false, true),
      directories: pick(good.directories, {}),
      files: pick(
        good.files,
        {},
        { ...good.files, "/usr/lib/edgeseal/check-inference": "0755 root:root sha256:00" },
      ),
      unitOverrides: pick<string[]>([], ["/run/systemd/system/edgeseal-inference.service"]),
      units: pick(good.units, {}, { ...good.units, "edgeseal-inference.service": "masked, inactive" }),
      foreignContainers: pick<string[]>([], ["a of b"]),
      foreignProcesses: pick<string[]>([], ["sh in /user.slice"]),
      images: pick([digest], []),
      restarts: pick(0, 3),
      exposure: pick({}, { "edgeseal-inference.service": "9.4" }),
    };
    expect(planFor(state).length === 0, `seed ${seed}: ${JSON.stringify(state)}`).toBe(
      differences(state).length === 0,
    );
  }
});

test("the way back takes units and user away, and leaves image and model", () => {
  const steps = inferenceContainer.revert(wanted, { outcome: "present", state: good });
  expect(titles(steps)).toEqual([
    "stop edgeseal-inference.service, and have nothing start it",
    ...Object.keys(good.units)
      .sort((a, b) =>
        a.endsWith("inference.service") ? -1 : b.endsWith("inference.service") ? 1 : a < b ? -1 : 1,
      )
      .map((unit) => `remove ${unit}`),
    "remove the user edgeseal-inference",
  ]);
  expect(JSON.stringify(steps)).not.toContain("/srv/models");
});
