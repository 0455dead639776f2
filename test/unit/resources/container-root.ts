import { chmodSync } from "node:fs";
import { join } from "node:path";
import { FakeRoot } from "./fake-root.ts";

/* The files of /proc and /sys/fs/cgroup of a node on which an inference container runs, with the values of llama-server on the virtual Pi. */

const kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

function addNamespaces(root: FakeRoot, pid: number, numberOf: (kind: string) => number): void {
  for (const kind of kinds) root.link(`/proc/${pid}/ns/${kind}`, `${kind}:[${numberOf(kind)}]`);
}

/** `stat` as root sees it, whoever runs the tests. */
const stat = `#!/bin/sh
format=$(printf '%s' "$2" | sed 's/%U:%G/root:root/')
shift 2
exec /usr/bin/stat -c "$format" "$@"
`;

/** Puts programs into a root, in the place of the device's. */
export function addPrograms(root: FakeRoot, programs: Readonly<Record<string, string>>): void {
  for (const [name, script] of Object.entries(programs)) {
    root.write(`/bin/${name}`, script);
    chmodSync(join(root.root, "bin", name), 0o755);
  }
}

/** A node on which nothing runs but pid 1. */
export function rootWithInit(): FakeRoot {
  const root = new FakeRoot();
  addNamespaces(root, 1, () => 4026531835);
  addPrograms(root, { stat });
  return root;
}

/** The control group of the container of service `inference`. */
export function addPayload(root: FakeRoot, pids: readonly number[]): void {
  root.write(
    "/sys/fs/cgroup/system.slice/edgeseal-inference.service/libpod-payload-9f1c/cgroup.procs",
    pids.map((pid) => `${pid}\n`).join(""),
  );
}

/** How a process differs from a llama-server that is confined as it must be. */
export interface ProcessMarks {
  readonly innerPid?: number;
  readonly seccomp?: number;
  readonly filters?: number;
  readonly noNewPrivs?: number;
  readonly label?: string;
  readonly sharedNet?: boolean;
}

const noCapability = "0000000000000000";

export function processFiles(root: FakeRoot, pid: number, marks: ProcessMarks): void {
  const { innerPid = 1, seccomp = 2, filters = 21, noNewPrivs = 1, sharedNet = false } = marks;
  const { label = "edgeseal-inference//&edgeseal-inference-podman (enforce)" } = marks;
  root.write(
    `/proc/${pid}/status`,
    `Name:	llama-server
Umask:	0022
State:	S (sleeping)
NSpid:	${pid}	${innerPid}
Uid:	988	988	988	988
Gid:	988	988	988	988
Groups:	988
VmLck:	  240812 kB
VmSwap:	       0 kB
Threads:	5
${["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map((set) => `${set}:	${noCapability}`).join("\n")}
NoNewPrivs:	${noNewPrivs}
Seccomp:	${seccomp}
Seccomp_filters:	${filters}
`,
  );
  root.write(`/proc/${pid}/attr/current`, `${label}\n`);
  root.write(`/proc/${pid}/oom_score_adj`, "500\n");
  root.link(`/proc/${pid}/exe`, "/usr/bin/llama-server");
  addNamespaces(root, pid, (kind) =>
    kind === "time" || (kind === "net" && sharedNet) ? 4026531835 : 4026532000 + pid,
  );
}
