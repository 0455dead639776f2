import { getSystemErrorName } from "node:util";
import { expect } from "vitest";
import { desiredConfinement } from "../../../provider/resources/inference-container-confinement.ts";
import type { InferenceContainerInputs } from "../../../provider/resources/inference-container-inputs.ts";
import { runtimeDirectoryOf, serviceUnit } from "../../../provider/resources/inference-container-unit.ts";
import type { VirtualPi } from "../../../testbed/virtual-pi.ts";
import { serviceOf, type Supply } from "../inference-node.ts";
import { onPi } from "../provider-on-pi.ts";
import { attempts, memoryMaxMiB, tasksMax, wentThrough, type Layer } from "./attempts.ts";

/*
 * The service with some of its layers, as the product's own unit renders it; what the product has no switch for is taken out of that unit's text.
 */

const unit = "edgeseal-inference.service";
const socket = `${runtimeDirectoryOf("inference")}/http/http.sock`;

/** More than any attempt asks for. */
const unlimited = { memoryMaxMiB: 4096, tasksMax: 1024 };

/** The service's inputs with these layers, as far as they go. */
export function inputsOf(supply: Supply, on: readonly Layer[]): InferenceContainerInputs {
  const has = (layer: Layer): boolean => on.includes(layer);
  return serviceOf(supply, {
    startTimeoutSeconds: 120,
    ...(has("limits") ? { memoryMaxMiB, tasksMax } : unlimited),
    confinement: {
      ...serviceOf(supply).inputs.confinement,
      seccomp: has("seccomp") ? "profile" : "unconfined",
      appArmor: has("appArmor") ? "profile" : "unconfined",
      capabilities: has("rights") ? [] : ["CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"],
      readOnlyRoot: has("container"),
    },
  }).inputs;
}

/** Lines of a unit that become filters of system calls (systemd.exec(5)). */
const filters =
  /^(SystemCall(Filter|Architectures|ErrorNumber)|Restrict(AddressFamilies|Namespaces|Realtime|SUIDSGID)|MemoryDenyWriteExecute|LockPersonality|Protect(Clock|KernelModules)|PrivateDevices)=.*\n/gm;

/** The unit's text with these layers and no others. */
export function unitOf(supply: Supply, on: readonly Layer[]): string {
  let text = serviceUnit(inputsOf(supply, on));
  const change = (pattern: string | RegExp, by: string): void => {
    const changed = text.replace(pattern, by);
    if (changed === text) throw new Error(`the unit has no ${String(pattern)} that could be taken away`);
    text = changed;
  };
  if (!on.includes("unit")) change(filters, "");
  if (!on.includes("container")) {
    change("--cap-drop all", "--cap-drop all --pid host --security-opt unmask=ALL --volume /:/node:ro");
    change(":/models:ro", ":/models");
    change(",noexec,", ",exec,");
    change(/^IPAddressDeny=.*\n/m, "");
    // Else all but the storage is read-only to the unit (ProtectSystem=strict).
    change(/^ReadWritePaths=/m, `ReadWritePaths=${inputsOf(supply, on).modelDirectory} `);
  }
  // The check before the start holds that the model is root's alone to change.
  if (!on.includes("rights")) change(/^ExecCondition=.*\n/m, "");
  return text;
}

/** What has to be read of the container's process, so that the layers are known to be there, and the others not. */
export function observedOf(supply: Supply, on: readonly Layer[]): Record<string, unknown> {
  const asked: Record<string, unknown> = {
    ...desiredConfinement(inputsOf(supply, on)),
    ...(on.includes("seccomp") || on.includes("unit") ? {} : { seccomp: "off" }),
  };
  if (on.includes("container")) return asked;
  const { writable: _, ...rest } = asked;
  return {
    ...rest,
    namespaces: "cgroup ipc mnt net user uts",
    // What is mounted of the node is told by name.
    mounts: expect.stringMatching(/^\/node, /),
    interfaces: "eth0 lo",
  };
}

/** Starts the service anew with these layers, and waits until it answers. */
export async function startWith(pi: VirtualPi, supply: Supply, on: readonly Layer[]): Promise<void> {
  const model = `/srv/models/models/${supply.model.digest.slice("sha256:".length)}/model.gguf`;
  const rights = on.includes("rights");
  await onPi(
    pi,
    `set -eu
systemctl stop edgeseal-inference-health.timer ${unit}
cat >/etc/systemd/system/${unit} <<'END'
${unitOf(supply, on)}END
chown ${rights ? "root" : "edgeseal-inference"} ${model}
chmod 0644 ${model}
sysctl -q kernel.unprivileged_bpf_disabled=${rights ? 2 : 0}
systemctl daemon-reload
systemctl reset-failed ${unit}
systemctl start ${unit}
${untilItAnswers}
${on.includes("container") ? "" : linked}`,
  );
}

/** A link between the node and the container's network, which stays the container's own: in the node's, no capability of the container's would count. */
const linked = `process=$(head -n 1 /sys/fs/cgroup/system.slice/${unit}/libpod-payload-*/cgroup.procs)
ip link add escape type veth peer name eth0 netns "$process"
ip addr add 10.9.9.1/24 dev escape
ip link set escape up
within="nsenter --net=/proc/$process/ns/net ip"
$within addr add 10.9.9.2/24 dev eth0
$within link set eth0 up
$within route add default via 10.9.9.1`;

/** Half a minute of an idle machine's. */
const untilItAnswers = `/usr/lib/edgeseal/ask-inference ${socket} /health 120 >/dev/null || { journalctl -q -o cat -n 30 -u ${unit} >&2; exit 1; }`;

/** How many filters of system calls conmon has, which is under those of the unit and no others. */
export const unitFilters = async (pi: VirtualPi): Promise<number> =>
  Number(
    await onPi(
      pi,
      `sed -n 's/^Seccomp_filters:[[:space:]]*//p' /proc/$(systemctl show -P MainPID ${unit})/status`,
    ),
  );

/** What becomes of each attempt in the container that runs: an error by its name, `killed` when its process was killed for want of memory. */
export async function tried(pi: VirtualPi): Promise<Readonly<Record<string, string>>> {
  const list = attempts.map(({ name, number = 0 }) => `${name} ${number === "conmon" ? "$conmon" : number}`);
  const said = await onPi(
    pi,
    `since=$(date +%s)
conmon=$(systemctl show -P MainPID ${unit})
while read -r name number; do
  echo "$name $(printf 'GET /try/%s/%s HTTP/1.0\\r\\n\\r\\n' "$name" "$number" | nc -N -U ${socket} | tail -n 1)"
done <<END
${list.join("\n")}
END
journalctl --sync
echo "oom $(journalctl -q -k -o cat --since "@$since" | grep -c 'oom-kill:constraint=CONSTRAINT_MEMCG.*oom_memcg=/system.slice/${unit}')"`,
  );
  const answers = new Map(said.split("\n").map((line) => line.split(" ") as [string, string]));
  const killed = answers.get("oom") !== "0";
  return Object.fromEntries(
    attempts.map(({ name }) => [name, outcome(answers.get(name) ?? "", killed)] as const),
  );
}

function outcome(answer: string, killed: boolean): string {
  if (answer === "0") return wentThrough;
  if (answer === "") return killed ? "killed" : "no answer";
  return /^\d+$/.test(answer) ? getSystemErrorName(-Number(answer)) : answer;
}

/** How often it was started again by systemd since it was started; once it answers. */
export async function restartsAfterwards(pi: VirtualPi): Promise<number> {
  return Number(await onPi(pi, `${untilItAnswers}\nsystemctl show -P NRestarts ${unit}`));
}
