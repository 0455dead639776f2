import { afterAll, beforeAll, expect, test } from "vitest";
import type { ResourceKind } from "../../provider/resource.ts";
import type { AppArmorProfileInputs } from "../../provider/resources/apparmor-profile-inputs.ts";
import type { AppArmorProfileState } from "../../provider/resources/apparmor-profile-observation.ts";
import { appArmorDocument } from "../../provider/resources/apparmor-profile-rules.ts";
import { appArmorProfile } from "../../provider/resources/apparmor-profile.ts";
import { variants } from "../../provider/resources/server-variants.ts";
import { VirtualPi } from "../../testbed/virtual-pi.ts";
import {
  bringUp,
  cutEverywhere,
  driftOf,
  observe,
  onPi,
  withProvider,
  type Declared,
} from "./provider-on-pi.ts";

/*
 * What a program can read that is started from under the outer profile, as podman's containers are. The program is `tail` by the server's name: the inner profile lets nothing
 * else run.
 */

const kind = appArmorProfile as unknown as ResourceKind;
const inputs: AppArmorProfileInputs = {
  name: "inference",
  modelDirectory: "/srv/models/models",
  storage: "/srv/models/containers/inference",
  variant: "llama-server",
};
const profile: Declared = { kind, inputs };
const path = "/etc/apparmor.d/edgeseal-inference";
const model = "/srv/models/models/ab/model.gguf";
const stacked = "edgeseal-inference//&edgeseal-inference-podman (enforce)";

let pi: VirtualPi;

beforeAll(async () => {
  pi = await VirtualPi.start();
  await onPi(
    pi,
    `cp /usr/bin/tail /usr/bin/llama-server
mkdir -p ${model.slice(0, -"/model.gguf".length)} && echo weights >${model}
echo secret >/srv/secret
cat >/etc/systemd/system/edgeseal-inference.service <<'X'
[Service]
AppArmorProfile=edgeseal-inference-podman
ExecStart=/bin/sh -c '/usr/bin/llama-server -f ${model}; exit 1'
X
systemctl daemon-reload`,
  );
});

afterAll(async () => {
  // It does not exist when its start failed.
  await (pi as VirtualPi | undefined)?.stop();
});

/** What the server gets of files, one after the other: their last line, or why not. */
async function reading(...files: readonly string[]): Promise<readonly string[]> {
  const said = await onPi(
    pi,
    files
      .map(
        (each) =>
          `aa-exec -p edgeseal-inference-podman -- /bin/sh -c '/usr/bin/llama-server -n 1 ${each} 2>&1; :'`,
      )
      .join("\n"),
  );
  return said.trimEnd().split("\n");
}

const denied = expect.stringMatching(/Permission denied$/) as unknown;

const drift = (): Promise<readonly string[]> => driftOf(pi, profile);

/** What confines the service that runs, its server by name. */
const labels = async (): Promise<string> =>
  (
    await onPi(
      pi,
      "until p=$(pgrep -x llama-server); do systemctl is-active -q edgeseal-inference.service || exit 1; done; cat /proc/$p/attr/current",
    )
  ).trim();

test("profiles are loaded as they are written, and what is started from under the outer one reads the model and nothing else", async () => {
  await bringUp(pi, profile);
  expect(await observe<AppArmorProfileState>(pi, profile)).toMatchObject({
    kernel: "on",
    modes: { "edgeseal-inference": "enforce", "edgeseal-inference-podman": "enforce" },
    loadedPolicy: "as written",
    atBoot: "loaded",
  });
  expect(
    await reading("/proc/self/attr/current", model, "/srv/secret", "/etc/passwd", "/proc/1/environ"),
  ).toEqual([stacked, "weights", denied, denied, denied]);
});

test("no other program runs there, though the outer profile alone would let it", async () => {
  const script = (program: string): string =>
    `aa-exec -p edgeseal-inference-podman -- /bin/sh -c '${program} /srv/secret 2>&1; echo $?'`;
  expect(await onPi(pi, script("/usr/bin/cat"))).toMatch(/(139|137|126)\n$/);
  // The twin: the shell itself is the program that was started under the outer profile.
  expect(await onPi(pi, script("read line </srv/secret; echo $line; :"))).toBe("secret\n0\n");
});

test.each<[string, string, readonly string[]]>([
  [
    "a profile that was unloaded",
    `apparmor_parser -R ${path}`,
    ["loadedPolicy", 'modes["edgeseal-inference"]', 'modes["edgeseal-inference-podman"]'],
  ],
  [
    "complain mode",
    `apparmor_parser -rC ${path}`,
    ["loadedPolicy", 'modes["edgeseal-inference"]', 'modes["edgeseal-inference-podman"]'],
  ],
  [
    "a file that was edited and loaded",
    `sed -i 's#^  /dev/null rw,#  /dev/null rw, /srv/** r,#' ${path} && apparmor_parser -r ${path}`,
    [`files["${path}"]`],
  ],
  [
    "another policy of the same name, the file untouched",
    `sed 's#^  /dev/null rw,#  /dev/null rw, /srv/** r,#' ${path} >/root/looser && apparmor_parser -r /root/looser`,
    ["loadedPolicy"],
  ],
])(
  "%s is named by a refresh and mended, and the service that runs is confined again",
  async (_, change, paths) => {
    await onPi(pi, "systemctl restart edgeseal-inference.service");
    expect(await labels()).toBe(stacked);
    await onPi(pi, change);
    // Why it counts.
    if (!change.includes("-R")) expect(await reading("/srv/secret")).toEqual(["secret"]);
    else expect(await labels()).not.toBe(stacked);
    expect(await drift()).toEqual(expect.arrayContaining([...paths]));
    await bringUp(pi, profile);
    expect(await reading("/srv/secret", model)).toEqual([denied, "weights"]);
    expect(await labels()).toBe(stacked);
  },
);

/** What AppArmor's own parser says of a document, compiled and not loaded. */
const compiled = (document: string) =>
  pi.exec("sudo -n apparmor_parser --skip-kernel-load --skip-cache", { stdin: document });

const other = { name: "other-2", modelDirectory: "/srv/a.b_c+d-e/models", storage: "/srv/.x/y/z" };
const withRule = (rule: string): string =>
  appArmorDocument({ ...other, variant: "llama-server" }).replace("/dev/null rw,", rule);

test.each([
  ...variants.map((variant) => ({ variant })),
  ...["/dev/hailo1", "/dev/h1x-0"].map((accelerator) => ({ variant: "hailo" as const, accelerator })),
])("the profiles for %j are taken by AppArmor's own parser", async (given) => {
  for (const places of [inputs, other]) {
    const { code, stderr } = await compiled(appArmorDocument({ ...places, ...given }));
    expect(code, stderr).toBe(0);
  }
});

test.each([
  ["a mode that there is not", "/dev/null rq,", "syntax error"],
  ["two ways to start one program", "/usr/bin/llama-server px,", "conflicting x modifiers"],
])("%s is not taken, and nothing is loaded by looking", async (_, rule, said) => {
  const { code, stderr } = await compiled(withRule(rule));
  expect(code).not.toBe(0);
  expect(stderr).toContain(said);
  expect(await onPi(pi, "cat /sys/kernel/security/apparmor/profiles")).not.toContain("edgeseal-other-2");
});

test("a link that keeps profiles from being enforced at boot is named and taken away; they are there after a boot", async () => {
  await onPi(
    pi,
    `mkdir -p /etc/apparmor.d/force-complain && ln -s ../edgeseal-inference /etc/apparmor.d/force-complain/`,
  );
  expect(await drift()).toContain("overrides");
  await bringUp(pi, profile);
  // The first boot compiles them, and the next one has them from the cache, in one piece.
  for (const inOne of [false, true]) {
    await pi.reboot();
    expect(await drift()).toEqual([]);
    const pieces = await onPi(
      pi,
      "cd /sys/kernel/security/apparmor/policy/profiles && sha256sum edgeseal-inference.*/raw_data edgeseal-inference-podman.*/raw_data | cut -d' ' -f 1",
    );
    expect(new Set(pieces.trim().split("\n")).size).toBe(inOne ? 1 : 2);
  }
  expect(await reading("/proc/self/attr/current", model, "/srv/secret")).toEqual([
    stacked,
    "weights",
    denied,
  ]);
});

test("taken away, the same read succeeds", async () => {
  await onPi(pi, "systemctl stop edgeseal-inference.service");
  await withProvider(pi, kind, async (device) => {
    const observed = await device.observe(kind, inputs);
    const steps = kind.revert(inputs, observed as never);
    expect((await device.apply(kind, inputs, steps)).failure).toBeUndefined();
  });
  expect(await onPi(pi, "grep edgeseal /sys/kernel/security/apparmor/profiles || :")).toBe("");
  expect(await onPi(pi, "/usr/bin/llama-server -n 1 /srv/secret")).toBe("secret\n");
});

test("the provider killed before and after each step, they are loaded, and at every boot, in the end", async () => {
  await onPi(
    pi,
    "systemctl disable apparmor.service; ln -s ../edgeseal-inference /etc/apparmor.d/force-complain/",
  );
  expect(await cutEverywhere(pi, profile)).toEqual([
    "before 'remove /etc/apparmor.d/force-complain/edgeseal-inference, which keeps a profile from holding'",
    "before 'see that apparmor_parser takes the profiles'",
    "before 'write the AppArmor profiles of inference'",
    "before 'load the AppArmor profiles of inference'",
    "before 'start edgeseal-inference.service anew, where it runs, under these profiles'",
    "before 'have the profiles loaded at every boot'",
    "after 'have the profiles loaded at every boot'",
  ]);
  expect(await reading("/proc/self/attr/current", model, "/srv/secret")).toEqual([
    stacked,
    "weights",
    denied,
  ]);
});
