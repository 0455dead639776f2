import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
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
import { FakeRoot } from "./fake-root.ts";
import { Choices } from "./generated-states.ts";
import { example } from "./inference-container-example.ts";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const wanted: InferenceContainerInputs = {
  ...example,
  port: 8080,
  nodeMemoryMiB: 8192,
  cpuQuotaPercent: 300,
};
const digest = `sha256:${"a".repeat(64)}`;
const reference = `registry.example/edge/llama@${digest}`;

/** The state in which nothing is left to do. */
const good: InferenceContainerState = {
  ...(inferenceContainer.desired(wanted) as InferenceContainerState),
  images: [reference],
  modelPresent: true,
  volumes: {
    "/srv/models/models": "/srv/models, encrypted",
    "/srv/models/containers/inference": "/srv/models, encrypted",
  },
  nodeMemory: "as declared",
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
  lastGood: "none",
};

const planFor = (state: InferenceContainerState, inputs = wanted): readonly Step[] =>
  inferenceContainer.plan(inputs, { outcome: "present", state }, route);
const titles = (steps: readonly Step[]): readonly string[] => steps.map(({ title }) => title);
const differences = (state: InferenceContainerState): readonly string[] =>
  diffState(inferenceContainer.desired(wanted), state).map(({ path }) => path);
const waiting =
  "wait until edgeseal-inference.service answers (600 s at most), and keep its unit as the one to go back to";
const leftovers = "remove images and archives that edgeseal-inference does not serve with";
const home = "stop whatever runs as edgeseal-inference, and give it the home in which nothing is";
const start = "start edgeseal-inference.service, and wait until it answers (600 s at most)";

test("on a fresh node: the user, the storage, the image, the units, and then it is waited for", () => {
  expect(titles(planFor(fresh)).filter((title) => !title.startsWith("write "))).toEqual([
    "make /usr/lib/edgeseal",
    "make /usr/lib/edgeseal/no-home, the home of services, in which nothing is",
    "make the user edgeseal-inference, who can't log in",
    "make /srv/models/containers/inference, the service's own",
    `take the image ${reference}, if the node's policy lets it in`,
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
      [waiting],
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
      "a profile that was changed, and the server not started anew under it",
      { confinement: { ...good.confinement, seccomp: "profile, as it was before a change" } },
      ["confinement.seccomp"],
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
      "another home: the service is stopped for it, and starts again",
      { account: { ...good.account, home: "/home/x" } },
      ["account.home"],
      [home, start],
    ],
    [
      "another home and a shell",
      { account: { ...good.account, home: "/home/x", shell: "/bin/bash" } },
      ["account.home", "account.shell"],
      ["make the user edgeseal-inference, who can't log in", home, start],
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
    [
      "a server that nobody waited for to its end: what it was started from is to be gone back to from now on",
      { lastGood: "other" },
      ["lastGood"],
      [waiting],
    ],
    [
      "one that still reads its model after that",
      { lastGood: "none", health: "loading" },
      ["health", "lastGood"],
      [waiting],
    ],
    [
      "a unit that was written, and the server not started anew from it",
      {
        lastGood: "other",
        units: { ...good.units, "edgeseal-inference.service": "enabled, active, started from another" },
      },
      ['units["edgeseal-inference.service"]', "lastGood"],
      [start],
    ],
    [
      "a server that was started without its check, by a drop-in that an update removed, and then was cut off",
      { units: { ...good.units, "edgeseal-inference.service": "enabled, active, its start left no record" } },
      ['units["edgeseal-inference.service"]'],
      [start],
    ],
    [
      "an image that came by a pull which was cut off before it had its name",
      { images: [digest], image: "", health: "not running" },
      ["health", "image"],
      [`take the image ${reference}, if the node's policy lets it in`, start],
    ],
    [
      "an image of the same digest in another repository, under which the unit does not look for it",
      { images: [`registry.example/other@${digest}`], health: "not running" },
      ["health"],
      [`take the image ${reference}, if the node's policy lets it in`, start],
    ],
    [
      "what pulls and former images have left: the server goes on meanwhile",
      { leftovers: ["/var/lib/edgeseal/images/x", `registry.example/edge/llama@sha256:c`] },
      ["leftovers"],
      [leftovers],
    ],
    [
      "a former image: it goes once the new one answers",
      { image: "sha256:c", leftovers: ["registry.example/edge/llama@sha256:c"] },
      ["image", "leftovers"],
      [start, leftovers],
    ],
    [
      "something of the node mounted in the container",
      { confinement: { ...good.confinement, mounts: "/dev/mem" } },
      ["confinement.mounts"],
      [start],
    ],
    [
      "no podman",
      { missingPackages: ["crun", "podman"] },
      ["missingPackages"],
      ["install crun, which runs the container", "install podman, which runs the container"],
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

  test("while another file system is mounted where the sealed volume belongs", () => {
    const volumes = { ...good.volumes, "/srv/models/models": "/srv/models, not the sealed volume models" };
    expect(() => planFor({ ...good, health: "not running", volumes })).toThrow(
      /^\/srv\/models\/models: \/srv\/models, not the sealed volume models; see what is mounted there/,
    );
  });

  test.each(["root's", "shared with edge"])(
    "with a user id that is %s: what is ended, and given away, would be another's",
    (uid) => {
      const state = {
        ...good,
        account: { ...good.account, uid },
        foreignProcesses: ["systemd in /init.scope"],
      };
      expect(differences(state)).toEqual(["account.uid", "foreignProcesses"]);
      expect(() => planFor(state)).toThrow(PlanRefused);
      expect(() => planFor(state)).toThrow(`the user id of edgeseal-inference is ${uid}; see who changed it`);
    },
  );

  test.each([
    "alice (not in its list: it is the user's primary group)",
    "bob (not in its list: in others, a group of the same number)",
  ])("while somebody is in its group whom its list can't keep out: %s", (member) => {
    const state = { ...good, groupMembers: [member, "edge"] };
    expect(() => planFor(state)).toThrow(PlanRefused);
    expect(() => planFor(state)).toThrow(
      `in the group edgeseal-inference, which may talk to the server: ${member}; see who changed it, and give such a user another primary group`,
    );
    // A group that was there before the service's user is no other.
    expect(() => planFor({ ...fresh, groupMembers: [member] })).toThrow(PlanRefused);
  });

  test("while a drop-in of the site's changes all services: it is named, and not removed", () => {
    const state = {
      ...good,
      unitOverrides: [
        "/etc/systemd/system/edgeseal-inference.service.d/x.conf",
        "/etc/systemd/system/service.d/site-wide.conf",
      ],
    };
    expect(() => planFor(state)).toThrow(
      /^\/etc\/systemd\/system\/service\.d\/site-wide\.conf: such a drop-in for many units .*move it into/,
    );
    const removed = titles(inferenceContainer.revert(wanted, { outcome: "present", state }));
    expect(removed).toContain("remove /etc/systemd/system/edgeseal-inference.service.d/x.conf");
    expect(removed.join()).not.toContain("site-wide");
  });

  test("on a node with less memory than the sums were made with, naming both figures, whatever else differs", () => {
    const state = { ...good, nodeMemory: "4047 MiB, less than the 8192 declared" };
    expect(differences(state)).toEqual(["nodeMemory"]);
    for (const each of [state, { ...fresh, nodeMemory: state.nodeMemory }])
      expect(() => planFor(each)).toThrow(
        /^the node's memory: 4047 MiB, less than the 8192 declared; .*`nodeMemoryMiB`/,
      );
    // Where nobody said what it has, nothing is held against it.
    const { nodeMemoryMiB: _, ...undeclared } = wanted;
    expect(planFor({ ...good, nodeMemory: "4047 MiB" }, undeclared)).toEqual([]);
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

test("an image has its name last, once all of it is on the disk, and what it came in goes", () => {
  const step = planFor(fresh).find(({ title }) => title.startsWith("take the image"));
  const script = step?.kind === "run" ? step.script : "";
  const places = [
    "image prune --force",
    "pull --quiet",
    "sync -f /srv/models/containers/inference",
    ` tag `,
    `rm -rf /srv/models/containers/inference/edgeseal-pull /var/lib/edgeseal/images/`,
  ].map((each) => script.replaceAll("'", "").lastIndexOf(each));
  expect(places).not.toContain(-1);
  expect(places).toEqual(places.toSorted((a, b) => a - b));
});

/** The step that ends processes, with a user database that says this of numbers; beside a process of the service's own and one of somebody's, which are real. */
function ending(
  passwd: string,
  state: Partial<InferenceContainerState> = { foreignProcesses: ["sleep in /user.slice"] },
) {
  using root = new FakeRoot();
  const step = planFor({ ...good, ...state }).find(({ title }) => /^(end what|stop what)/.test(title));
  const [own = "", foreign = ""] = spawnSync(
    "sh",
    ["-c", "for i in 1 2; do sleep 100 >/dev/null 2>&1 & echo $!; done"],
    { encoding: "utf8" },
  )
    .stdout.trim()
    .split("\n");
  // One that ended may wait for somebody to ask what became of it.
  const alive = `alive() { case $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) in '' | Z) return 1 ;; esac; }`;
  root.write(`/proc/${own}/cgroup`, "0::/system.slice/edgeseal-inference.service/libpod-payload-1\n");
  root.write(`/proc/${foreign}/cgroup`, "0::/user.slice/edgeseal-inference.service.evil\n");
  for (const [name, script] of Object.entries({
    getent: `printf '${passwd}'`,
    id: `printf '${passwd}' | sed -n 's/^edgeseal-inference:x:\\([0-9]*\\):.*/\\1/p'`,
    pgrep: `${alive}\necho "pgrep $*" >>"$ROOT/calls"; for p in ${own} ${foreign}; do ! alive $p || echo $p; done`,
    "systemd-run": `case "$*" in
*' ps --all '*) printf 'aa edgeseal-inference\nbb by-hand\ncc other\n' ;;
*) echo "$*" | sed 's/.* --events-backend none /podman /' >>"$ROOT/calls" ;;
esac`,
    install: "exit 0",
    systemctl: `echo "systemctl $*" >>"$ROOT/calls"`,
    // As shadow's does while something runs.
    usermod: `${alive}
for p in ${own} ${foreign}; do ! alive $p || { echo "usermod: user is currently used by process $p" >&2; exit 8; }; done
echo "usermod $*" >>"$ROOT/calls"`,
  })) {
    root.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
    chmodSync(join(root.root, "bin", name), 0o755);
  }
  try {
    const { code, stderr } = root.sh(step?.kind === "run" ? step.script : "exit 99");
    const left = spawnSync(
      "sh",
      ["-c", `${alive}\nfor p in ${own} ${foreign}; do ! alive $p || echo $p; done`],
      {
        encoding: "utf8",
      },
    );
    const names: Readonly<Record<string, string>> = { [own]: "its own", [foreign]: "somebody's" };
    const calls = root.calls();
    return {
      code,
      stderr,
      left: left.stdout
        .split("\n")
        .filter(Boolean)
        .map((pid) => names[pid]),
      removed: calls.filter((call) => call.startsWith("podman")),
      done: calls.filter((call) => !/^(podman|pgrep)/.test(call)),
      asked: new Set(calls.filter((call) => call.startsWith("pgrep"))),
    };
  } finally {
    spawnSync("kill", ["-KILL", own, foreign]);
  }
}

test("what others run as the service's user is ended, and never the service, what another user runs, or root", () => {
  const other = "root:x:0:0::/:/bin/sh\\nedge:x:1000:1000::/:/bin/sh\\n";
  const own = (uid: number): string => `${other}edgeseal-inference:x:${uid}:989::/:/bin/sh\\n`;
  expect(ending(own(989))).toEqual({
    code: 0,
    stderr: "",
    left: ["its own"],
    removed: ["podman rm --force bb cc"],
    done: [],
    asked: new Set(["pgrep -U 989"]),
  });
  for (const uid of [0, 1000])
    expect(ending(own(uid))).toEqual({
      code: 1,
      stderr: `the user id ${uid} of edgeseal-inference is not its own alone`,
      left: ["its own", "somebody's"],
      removed: [],
      done: [],
      asked: new Set(),
    });
});

test("a home changes once nothing runs as the service's user, the service neither; and never what runs as another, or root", () => {
  const other = "root:x:0:0::/:/bin/sh\\n";
  const own = (uid: number): string => `${other}edgeseal-inference:x:${uid}:989::/home/x:/bin/sh\\n`;
  const state = { account: { ...good.account, home: "/home/x" } };
  expect(ending(own(989), state)).toMatchObject({
    code: 0,
    stderr: "",
    left: [],
    done: [
      "systemctl stop edgeseal-inference.service",
      "usermod --home /usr/lib/edgeseal/no-home edgeseal-inference",
    ],
  });
  expect(ending(own(0), state)).toMatchObject({
    code: 1,
    stderr: "the user id 0 of edgeseal-inference is not its own alone",
    left: ["its own", "somebody's"],
    done: ["systemctl stop edgeseal-inference.service"],
  });
});

test("until the image is there nothing stops the service, whatever else is amiss", () => {
  const steps = planFor({
    ...good,
    images: [],
    image: "sha256:c",
    foreignContainers: ["x of y"],
    foreignProcesses: ["sleep in /user.slice"],
    groups: ["video"],
    subordinateIds: ["/etc/subuid: x"],
    account: { ...good.account, home: "/home/x", shell: "/bin/bash" },
  });
  const pull = steps.findIndex(({ title }) => title.startsWith("take the image"));
  expect(pull).toBeGreaterThan(0);
  // What such a process could change it must not be there for.
  expect(titles(steps.slice(0, pull))).toContainEqual(expect.stringMatching(/^end what/));
  const scripts = steps.slice(0, pull).map((step) => (step.kind === "run" ? step.script : ""));
  expect(scripts.join("\n")).not.toMatch(/systemctl (stop|restart|start)|pkill|rm' --all|rm --all/);
});

describe("storage in which others could write", () => {
  const storage = wanted.storage;
  const empty = `empty ${storage}, in which others could write`;
  const own = `make ${storage}, the service's own`;
  const take = `take the image ${reference}, if the node's policy lets it in`;
  const planned = (mark: string, changed: Partial<InferenceContainerState> = {}): readonly string[] =>
    titles(planFor({ ...good, ...changed, directories: { ...good.directories, [storage]: mark } }));

  test.each([
    "0777 www-data:www-data",
    "0700 www-data:www-data",
    "0700 UNKNOWN:UNKNOWN",
    "0700 root:root",
    "0700 edgeseal-inference:www-data",
    "0770 edgeseal-inference:edgeseal-inference",
    "0702 edgeseal-inference:edgeseal-inference",
  ])("is emptied, and the image taken anew: %s", (mark) => {
    expect(planned(mark)).toEqual([empty, own, take, start]);
  });

  test("is emptied before the user is made, who may get the number of its owner", () => {
    const steps = planned("0700 UNKNOWN:UNKNOWN", { account: {} });
    expect(steps).toEqual([empty, "make the user edgeseal-inference, who can't log in", own, take, start]);
  });

  test("is not what the service's own is that others could read", () => {
    expect(planned("0755 edgeseal-inference:edgeseal-inference")).toEqual([own, start]);
  });

  /** The step that empties it, on a node where storage has this mark by now and is on this mount; what is left of it and beside it, and what was called. */
  function emptied(mark: string, { mount = "/srv/models", link = false } = {}) {
    using root = new FakeRoot();
    const at = `${root.root}/srv/models/containers/inference`;
    root.write("/srv/models/models/model.gguf", "");
    root.write("/srv/models/containers/other/overlay-images/images.json", "");
    if (link) root.link("/srv/models/containers/inference", `${root.root}/srv/models/models`);
    else root.write("/srv/models/containers/inference/overlay-images/images.json", "");
    for (const [name, script] of Object.entries({
      stat: `case "$2" in %m) echo '${mount}' ;; *) echo '${mark}' ;; esac`,
      chown: `echo "chown $*" >>"$ROOT/calls"`,
    })) {
      root.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
      chmodSync(join(root.root, "bin", name), 0o755);
    }
    const steps = planFor(
      { ...good, directories: { ...good.directories, [at]: "0777 www-data:www-data" } },
      { ...wanted, storage: at },
    );
    const step = steps.find(({ title }) => title.startsWith("empty "));
    const { code, stderr } = root.sh(step?.kind === "run" ? step.script : "exit 99");
    return {
      code,
      stderr,
      calls: root.calls(),
      left: ["containers/inference/overlay-images", "containers/inference", "containers/other", "models"]
        .filter((path) => root.exists(`/srv/models/${path}`))
        .filter((path) => path !== "models" || root.exists("/srv/models/models/model.gguf")),
    };
  }
  const beside = ["containers/other", "models"];
  const full = ["containers/inference/overlay-images", "containers/inference", ...beside];
  const stop = "systemctl stop edgeseal-inference.service";

  test("is root's while it is emptied, and nothing beside it is touched", () => {
    expect(emptied("www-data:www-data drwxrwxrwx")).toEqual({
      code: 0,
      stderr: "",
      calls: [stop, "chown root:root -- /srv/models/containers/inference"],
      left: ["containers/inference", ...beside],
    });
  });

  test("that is a link is a link less, and what it leads to stays", () => {
    expect(emptied("root:root lrwxrwxrwx", { link: true })).toEqual({
      code: 0,
      stderr: "",
      calls: [stop],
      left: beside,
    });
  });

  test("stays as it is where it is the service's own by now, or on no volume", () => {
    expect(emptied("edgeseal-inference:edgeseal-inference drwx------")).toMatchObject({
      code: 0,
      calls: [],
      left: full,
    });
    expect(emptied("www-data:www-data drwxrwxrwx", { mount: "/" })).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/is on no mounted volume$/) as string,
      calls: [],
      left: full,
    });
  });
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
      account: pick(
        good.account,
        {},
        { ...good.account, password: "not locked" },
        { ...good.account, home: "/home/x" },
      ),
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
      images: pick([reference], [digest], []),
      lastGood: pick("this", "other", "none"),
      leftovers: pick<string[]>([], ["/var/lib/edgeseal/images/x", "sha256:c"]),
      missingPackages: pick<string[]>([], ["podman"]),
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
    "give /srv/models/containers/inference to root, who alone gets in",
    "forget what edgeseal-inference.service was started from",
    "remove the user edgeseal-inference",
  ]);
  expect(JSON.stringify(steps)).not.toMatch(/\b(rm|find|delete)\b[^"]*\/srv\/models/);
});

describe("the way back of a group", () => {
  /** What is done, on a node with these users and this group. */
  function removed(passwd: string, group: string) {
    const groupMembers = ["alice (not in its list: it is the user's primary group)"];
    const steps = inferenceContainer.revert(wanted, { outcome: "present", state: { ...good, groupMembers } });
    using root = new FakeRoot();
    for (const [name, script] of Object.entries({
      getent: `case $* in
'group edgeseal-inference') printf '${group}' | grep . ;;
'passwd edgeseal-inference') printf '${passwd}' | grep ^edgeseal-inference: ;;
passwd) printf '${passwd}' ;;
esac`,
      userdel: `echo "userdel $*" >>"$ROOT/calls"`,
      groupdel: `echo "groupdel $*" >>"$ROOT/calls"`,
    })) {
      root.write(`/bin/${name}`, `#!/bin/sh\n${script}\n`);
      chmodSync(join(root.root, "bin", name), 0o755);
    }
    const ran = steps.slice(-2).map((step) => {
      const { code, stderr } = root.sh(step.kind === "run" ? step.script : "exit 99");
      return { title: step.title, code, stderr, onFailure: step.kind === "run" ? step.onFailure : undefined };
    });
    return { ran, calls: root.calls() };
  }
  const group = "edgeseal-inference:x:989:\\n";

  test("that is another user's primary group: it stays, and that is said", () => {
    const { ran, calls } = removed("alice:x:1000:989::/:/bin/sh\\n", group);
    expect(calls).toEqual([]);
    expect(ran).toEqual([
      { title: "remove the user edgeseal-inference", code: 0, stderr: "", onFailure: undefined },
      {
        title: "see whether the group edgeseal-inference is gone",
        code: 1,
        stderr: "the group edgeseal-inference stays: it is the primary group of alice",
        onFailure: "warn",
      },
    ]);
  });

  test("that is nobody's, or went with the user", () => {
    const other = "alice:x:1000:1000::/:/bin/sh\\n";
    expect(removed(other, group).calls).toEqual(["groupdel edgeseal-inference"]);
    for (const { code, stderr } of removed(other, "").ran)
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(removed(other, "").calls).toEqual([]);
  });
});
