import { mkdir, readdir, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildImage } from "../cli/image/build.ts";
import { fetchModel } from "../cli/model/fetch.ts";
import { readServedUnit, type ServedUnit } from "../cli/bench/served-unit.ts";
import { factParts, nodeFacts } from "../cli/bench/node-facts.ts";
import { llamaServer } from "../images/llama-server/recipe.ts";
import type { InferenceContainerInputs } from "../provider/resources/inference-container-inputs.ts";
import {
  emptyHome,
  modelFolderOf,
  podman,
  podmanEnvironment,
  runtimeDirectoryOf,
  seccompProfileOf,
  serviceUnit,
  userOf,
} from "../provider/resources/inference-container-unit.ts";
import { seccompDocument } from "../provider/resources/seccomp-profile-variants.ts";
import { quote } from "../provider/device/shell-quote.ts";
import { NamespaceNode } from "../testbed/namespace/node.ts";

/*
 * A node in namespaces on which the real unit runs: the image, the model, the seccomp profile and the user that it names are there, and nothing of AppArmor, LUKS or
 * signatures, which such a node can't have or which say nothing of speed.
 */

const name = "inference";
const repository = "bench.example/edge/llama-server";
const mountPoint = "/srv/models";
/** Where the image lies as it is pulled. */
const imageFolder = `${mountPoint}/image`;

const plainRoot = "/srv/plain-root";

export interface InferenceNode extends AsyncDisposable {
  readonly node: NamespaceNode;
  /** The unit as edgeseal renders it, but for what `asFarAsItGoes` changes. */
  readonly unit: ServedUnit;
  /** The image's files, for a process without a container. */
  readonly imageRoot: string;
  /** Lines of a unit that put its processes under limits of memory, tasks and processor time. */
  readonly limitLines: readonly string[];
}

const limits = { memoryMaxMiB: 900, tasksMax: 64, cpuQuotaPercent: 200 } as const;

/** Makes the node, and fetches what is not in the per-user cache yet. */
export async function startInferenceNode(onProgress: (message: string) => void): Promise<InferenceNode> {
  const arch = process.arch === "arm64" ? "arm64" : "amd64";
  const image = await buildImage(llamaServer, arch, { onProgress });
  const model = await fetchModel("gemma-3-270m", { onProgress });
  const inputs: InferenceContainerInputs = {
    name,
    image: `${repository}@${image.digest}`,
    model: `sha256:${model.sha256}`,
    modelDirectory: `${mountPoint}/models`,
    storage: `${mountPoint}/containers/${name}`,
    variant: "llama-server",
    contextTokens: 1024,
    threads: 1,
    parallel: 1,
    ...limits,
    tmpMiB: 16,
    startTimeoutSeconds: 300,
    confinement: {
      seccomp: "profile",
      appArmor: "unconfined",
      readOnlyRoot: true,
      noNewPrivileges: true,
      memoryLock: true,
      network: "none",
      capabilities: [],
      devices: [],
    },
  };
  const node = await NamespaceNode.start({ packages: ["podman", "crun"] });
  try {
    await equip(node, inputs, image.folder, model.file);
    const controllers = await node.must("cat /sys/fs/cgroup/cgroup.controllers");
    const unified = ["cpu", "memory", "pids"].every((each) => controllers.split(/\s/).includes(each));
    const old = unified ? undefined : await OldLimits.make(node);
    const unit = readServedUnit(name, asFarAsItGoes(serviceUnit(inputs), unified));
    const parts = factParts(unit);
    const { imageRoot } = nodeFacts(unit, "", await node.must(parts.manifest));
    if (imageRoot === undefined) throw new Error("podman keeps the image in more than one layer");
    // podman writes to a root file system that it is given: /etc/passwd.
    await node.must(`cp -a ${imageRoot} ${plainRoot}`);
    return {
      node,
      unit,
      imageRoot: plainRoot,
      limitLines: old?.lines ?? [
        `MemoryMax=${limits.memoryMaxMiB}M`,
        "MemorySwapMax=0",
        `TasksMax=${limits.tasksMax}`,
        `CPUQuota=${limits.cpuQuotaPercent}%`,
      ],
      async [Symbol.asyncDispose]() {
        await node.stop();
        await old?.remove();
      },
    };
  } catch (error) {
    await node.stop();
    throw error;
  }
}

/**
 * What such a node can't do of the unit. The container's proc file system is made from one that no unit may write to otherwise; where the machine's controllers are in the old hierarchies,
 * podman makes no control group of its own, and the limits are set in those (`OldLimits`).
 */
function asFarAsItGoes(text: string, unified: boolean): string {
  const withProc = text.replace(/^ReadWritePaths=.*$/m, "$& /run/testbed-sys/proc");
  if (unified) return withProc;
  return withProc.replace(" --cgroups=split ", " --cgroups=disabled ").replace(/ --pids-limit \S+ /, " ");
}

async function equip(
  node: NamespaceNode,
  inputs: InferenceContainerInputs,
  image: string,
  model: string,
): Promise<void> {
  const user = userOf(name);
  await node.must(`set -eu
mount -t tmpfs -o size=2G,mode=0755,nodev,nosuid,noexec tmpfs /srv
mkdir -p ${modelFolderOf(inputs)} ${imageFolder} ${inputs.storage} ${emptyHome} ${seccompProfileOf(name).replace(/\/[^/]*$/, "")}
groupadd --system ${user}
useradd --system --gid ${user} --home-dir ${emptyHome} --no-create-home --shell /usr/sbin/nologin ${user}
chown ${user}:${user} ${inputs.storage}
printf %s ${quote(seccompDocument({ name, variant: "llama-server", additionalSyscalls: [] }))} >${seccompProfileOf(name)}`);
  await node.copyIn(model, `${modelFolderOf(inputs)}/model.gguf`);
  for (const each of await readdir(image)) await node.copyIn(join(image, each), `${imageFolder}/${each}`);
  const environment = Object.entries(podmanEnvironment(name)).map(
    ([key, value]) => `-E ${quote(`${key}=${value}`)}`,
  );
  const asUser = `systemd-run --quiet --wait --pipe --collect -p User=${user} ${environment.join(" ")} -- ${podman(inputs).join(" ")}`;
  await node.must(`set -eu
chmod -R a+rX ${mountPoint}/models ${imageFolder}
install -d -m 0710 -o ${user} -g ${user} ${runtimeDirectoryOf(name)}
id=$(${asUser} pull --quiet dir:${imageFolder} | tail -n 1)
${asUser} tag "$id" ${repository}:bench
rm -rf ${imageFolder}`);
}

/** Control groups in the old hierarchies, where this machine has its controllers. A process is moved into them once it runs, since systemd knows them no more. */
class OldLimits {
  readonly lines: readonly string[];
  readonly #groups: readonly string[];

  private constructor(groups: readonly string[], apply: string) {
    this.#groups = groups;
    this.lines = ["RootDirectoryStartOnly=yes", `ExecStartPost=+/bin/sh ${apply}`];
  }

  static async make(node: NamespaceNode): Promise<OldLimits> {
    const values = {
      memory: { "memory.limit_in_bytes": String(limits.memoryMaxMiB * 1024 * 1024) },
      pids: { "pids.max": String(limits.tasksMax) },
      cpu: { "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": String(limits.cpuQuotaPercent * 1000) },
    };
    const groups: string[] = [];
    for (const [controller, settings] of Object.entries(values)) {
      const group = `/sys/fs/cgroup/${controller}/edgeseal-bench-${process.pid}`;
      await mkdir(group);
      groups.push(group);
      for (const [file, value] of Object.entries(settings)) await writeFile(join(group, file), value);
    }
    const apply = "/run/bench-limits";
    await node.must(`set -eu
mkdir ${apply}
${Object.keys(values)
  .map((each) => `mkdir ${apply}/${each} && mount -t cgroup -o ${each} cgroup ${apply}/${each}`)
  .join("\n")}
printf %s ${quote(`for p in $(pgrep -U ${userOf(name)}); do
  for group in ${apply}/*/edgeseal-bench-${process.pid}; do echo "$p" >"$group/cgroup.procs" || exit; done
done
`)} >${apply}/apply`);
    return new OldLimits(groups, `${apply}/apply`);
  }

  async remove(): Promise<void> {
    for (const group of this.#groups) await rmdir(group);
  }
}
