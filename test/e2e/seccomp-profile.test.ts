import { afterAll, beforeAll, expect, test } from "vitest";
import type { ResourceKind } from "../../provider/resource.ts";
import type { SeccompProfileInputs } from "../../provider/resources/seccomp-profile-inputs.ts";
import type { SeccompProfileState } from "../../provider/resources/seccomp-profile-observation.ts";
import { seccompProfile } from "../../provider/resources/seccomp-profile.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import { inContainer, makePerlRoot } from "./perl-container.ts";
import { bringUp, driftOf, observe, onPi, type Declared } from "./provider-on-pi.ts";

/* The profile on a node with a kernel, a libseccomp and a podman of its own. */

const kind = seccompProfile as unknown as ResourceKind;
const inputs: SeccompProfileInputs = { name: "inference", variant: "llama-server", additionalSyscalls: [] };
const profile: Declared = { kind, inputs };
const path = "/etc/edgeseal/seccomp/inference.json";

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
});

const state = (): Promise<SeccompProfileState> => observe<SeccompProfileState>(pi, profile);

test("on the node the kernel refuses what is tried, and does not without the profile", async () => {
  await bringUp(pi, profile);
  expect(await state()).toMatchObject({
    defaultAction: "EPERM",
    dangerousCalls: [],
    trial: "done",
    letThrough: ["openat-read", "socket-unix"],
    undecided: [],
    architecture: "x86_64",
    proof: "proven on x86_64",
    containerSeccomp: "no container runs",
  });
});

test("in a container that podman starts with it a denied call fails, and succeeds without it", async () => {
  await makePerlRoot(pi);
  // mkdir(2), which is 83 on x86_64.
  const script = `my $p = "/made"; print syscall(83, $p, 0755) == 0 ? "made" : $!;`;
  expect(await inContainer(pi, path, script)).toBe("Operation not permittedstatus 0\n");
  expect(await inContainer(pi, "unconfined", script)).toBe("madestatus 0\n");
});

test("a call that somebody lets through is named by a refresh, by the file and by trying, and refused again", async () => {
  await onPi(
    pi,
    `python3 - <<'X'
import json
p = json.load(open("${path}"))
p["syscalls"].append({"names": ["mount"], "action": "SCMP_ACT_ALLOW"})
json.dump(p, open("${path}", "w"))
X`,
  );
  const drifted = await driftOf(pi, profile);
  expect(drifted.toSorted()).toEqual(["calls.mount", "dangerousCalls", `files["${path}"]`, "letThrough"]);
  await bringUp(pi, profile);
});
