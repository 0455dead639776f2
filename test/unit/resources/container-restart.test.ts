import { describe, expect, test } from "vitest";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import type { ResourceKind } from "../../../provider/resource.ts";
import { appArmorProfile } from "../../../provider/resources/apparmor-profile.ts";
import { restartWhereItRuns } from "../../../provider/resources/container-restart.ts";
import { inferenceContainer } from "../../../provider/resources/inference-container.ts";
import { onDevice } from "../../../provider/resources/managed-files.ts";
import { seccompProfile } from "../../../provider/resources/seccomp-profile.ts";
import { addPrograms, rootWithInit } from "./container-root.ts";
import { FakeRoot } from "./fake-root.ts";
import { good, record, wanted } from "./inference-container-parts.ts";

/*
 * A profile that changes while a container runs under it: what of the change the container has, and who starts it anew.
 */

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};
const { name, variant, modelDirectory, storage } = wanted;
const policy = "/sys/kernel/security/apparmor/policy/profiles";

/** The part of the check before each start that keeps what the server is started from. */
const keeping = ((): string => {
  const program = onDevice("check-inference");
  const keep = /^keep\(\) \{\n.*?^\}\n/ms.exec(program)?.[0] ?? "";
  const calls = program.match(/^(policies=|keep |set -- "\$policies|if cmp ).*$/gm) ?? [];
  return `name=${name} status=/run/edgeseal/inference\nmkdir -p $status\n${keep}${calls.join("\n")}`;
})();

/** A node on which the service was started under these profiles. */
function started(): FakeRoot {
  const root = rootWithInit();
  addPrograms(root, {
    // It prints what it would load, and loads what it prints.
    apparmor_parser: `#!/bin/sh
for each; do last=$each; done
case "$*" in
*--stdout*) cat "$last"; exit ;;
*--skip-kernel-load*) exit ;;
esac
cp "$last" "$ROOT${policy}/edgeseal-inference.4/raw_data"
`,
    python3: `#!/bin/sh\necho no python3\n`,
    uname: "#!/bin/sh\necho aarch64\n",
  });
  root.write("/etc/systemd/system/sysinit.target.wants/apparmor.service", "");
  root.write("/usr/lib/systemd/system/apparmor.service", "[Unit]\n");
  root.write("/sys/module/apparmor/parameters/enabled", "Y\n");
  root.write(
    "/sys/kernel/security/apparmor/profiles",
    "edgeseal-inference (enforce)\nedgeseal-inference-podman (enforce)\n",
  );
  root.write(`${policy}/edgeseal-inference.4/raw_data`, "a former policy\n");
  root.write(`${policy}/edgeseal-inference-podman.5/raw_data`, "");
  root.write("/etc/edgeseal/seccomp/inference.json", '{"defaultAction":"SCMP_ACT_ALLOW"}');
  for (const path of [
    "/etc/systemd/system/edgeseal-inference.service",
    "/run/edgeseal/inference/inference.unit",
  ])
    root.write(path, "[Unit]\n");
  root.write("/run/edgeseal/inference/inference.start", record(""));
  expect(root.sh(keeping)).toMatchObject({ code: 0, stderr: "" });
  return root;
}

/** What the container's resource finds on that node, of a process that is as it should be. */
function differences(root: FakeRoot): readonly string[] {
  const probe = inferenceContainer.observe(wanted);
  const parts = Object.entries(good).map(
    ([part, stdout]) => [part, { code: 0, stdout, stderr: "" }] as const,
  );
  const observed = probe.parse({
    ...Object.fromEntries(parts),
    record: { ...root.sh(probe.parts["record"] ?? ""), code: 0 },
  });
  if (observed.outcome !== "present") throw new Error("not observed");
  const steps = inferenceContainer.plan(wanted, observed, route);
  const found = diffState(inferenceContainer.desired(wanted), observed.state)
    .map(({ path }) => path)
    .filter((path) => path.startsWith("confinement."));
  expect(steps.some(({ title }) => /^start .* and wait until it answers/.test(title))).toBe(found.length > 0);
  return found;
}

/** Steps of a profile's plan on that node. */
function planOf(kind: ResourceKind, inputs: object, root: FakeRoot): readonly Step[] {
  const own = inputs as never;
  return kind.plan(own, root.observe(kind.observe(own)), route);
}

describe.each([
  ["seccomp", seccompProfile as unknown as ResourceKind, { name, variant, additionalSyscalls: [] }],
  ["appArmor", appArmorProfile as unknown as ResourceKind, { name, variant, modelDirectory, storage }],
])("a new profile of %s", (word, kind, inputs) => {
  test("that is cut off before the restart is named by the container's resource, which starts it", () => {
    using root = started();
    expect(differences(root)).toEqual([]);
    const steps = planOf(kind, inputs, root).filter(({ kind: each }) => each !== "package");
    expect(steps.at(-1)?.title).toMatch(/^start edgeseal-inference\.service anew, where it runs/);
    for (const step of steps.slice(0, -1)) root.apply(step);
    // The profile itself is as it should be, and has nothing more to do.
    const rest = planOf(kind, inputs, root).filter(({ kind: each }) => each !== "package");
    expect(rest).toEqual([]);
    expect(differences(root)).toEqual([`confinement.${word}`]);
    root.sh(keeping);
    expect(differences(root)).toEqual([]);
  });
});

test("a service that was started while a profile was another, which was put back, is named", () => {
  using root = started();
  const files = ["/etc/edgeseal/seccomp/inference.json", `${policy}/edgeseal-inference.4/raw_data`];
  const before = files.map((path) => root.read(path));
  for (const path of files) root.write(path, "loosened");
  root.sh(keeping);
  files.forEach((path, index) => {
    root.write(path, before[index] ?? "");
  });
  expect(differences(root)).toEqual(["confinement.seccomp", "confinement.appArmor"]);
});

test.each([
  ["running", true],
  // It may have read the profile already.
  ["condition", true],
  ["start", true],
  // Its next start reads what is there then.
  ["auto-restart", false],
  ["dead", false],
  ["failed", false],
])("a service that is in the state '%s' is started anew: %s", (state, restarted) => {
  using root = new FakeRoot();
  addPrograms(root, {
    systemctl: `#!/bin/sh\nif [ "$1" = show ]; then echo ${state}; else echo "systemctl $*" >>"$ROOT/calls"; fi\n`,
  });
  root.apply(restartWhereItRuns("inference", "under that profile"));
  expect(root.calls()).toEqual(restarted ? ["systemctl restart -- edgeseal-inference.service"] : []);
});
