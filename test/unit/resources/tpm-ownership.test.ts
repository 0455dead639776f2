import { afterEach, beforeAll, beforeEach, describe, expect, test, type TestContext } from "vitest";
import { UnknownObservation } from "../../../provider/device/probe.ts";
import type { Step } from "../../../provider/device/step.ts";
import { diffState } from "../../../provider/diff.ts";
import { PlanRefused } from "../../../provider/resource.ts";
import { tpmOwnership } from "../../../provider/resources/tpm-ownership.ts";
import type { TpmOwnershipState } from "../../../provider/resources/tpm-ownership-observation.ts";
import { fingerprint } from "../../../provider/trust/public-key.ts";
import { openRecovery, type RecoveryBinding } from "../../../provider/trust/recovery.ts";
import { testKey, type TestKey } from "../trust/keys.ts";
import { SoftwareTpm, softwareTpm } from "../trust/software-tpm.ts";
import { TpmRoot } from "./tpm-root.ts";

const route = {
  clientAddress: undefined,
  clientPort: undefined,
  serverAddress: undefined,
  serverPort: undefined,
};

type Inputs = Parameters<typeof tpmOwnership.desired>[0];

let recovery: TestKey;
let inputs: Inputs;

beforeAll(() => {
  recovery = testKey("recovery");
  inputs = {
    node: "pi-1",
    recoveryPublicKey: recovery.publicKeyPem,
    maxTries: 32,
    recoveryTime: 600,
    lockoutRecovery: 86_400,
  };
});

let root: TpmRoot;
beforeEach(() => (root = new TpmRoot()));
afterEach(() => root[Symbol.dispose]());

const stateOf = (): TpmOwnershipState => {
  const observed = root.observe(tpmOwnership.observe(inputs));
  return observed.outcome === "present" ? observed.state : expect.fail("absent");
};
const planFor = (given = inputs): readonly Step[] =>
  tpmOwnership.plan(given, { outcome: "present", state: stateOf() }, route);
const differences = (given = inputs): readonly string[] =>
  diffState(tpmOwnership.desired(given), stateOf()).map(({ path }) => path);
const apply = (steps: readonly Step[]): void => steps.forEach((step) => root.apply(step));

/** What a TPM that nobody owns differs in. */
const unowned = [
  "endorsementKey",
  "storageKey",
  "ownerAuth",
  "lockoutAuth",
  "maxTries",
  "recoveryTime",
  "lockoutRecovery",
];

/** Gives the decrypted authorization of the state. */
const authorization = (of: "owner" | "lockout"): Promise<string> => {
  const binding: RecoveryBinding = { kind: "tpm-auth", node: "pi-1", subject: of };
  return openRecovery(Buffer.from(stateOf().recovery[of] ?? "", "base64"), recovery.privateKey, binding);
};

describe("with a TPM", () => {
  const tpmOf = softwareTpm();
  /** The TPM as it comes, in the node. */
  const fresh = async (context: TestContext): Promise<SoftwareTpm> => {
    const tpm = tpmOf(context);
    root.insert(tpm);
    await tpm.run("tpm2_clear", "-c", "p");
    return tpm;
  };

  test("as it comes: nothing is owned, and each property says so", async (context) => {
    await fresh(context);
    expect(stateOf()).toEqual({
      tpm: "2.0",
      tools: "installed",
      manufacturer: "IBM",
      firmwareVersion: "8217.4131",
      endorsementKey: "none",
      endorsementKeySha256: "none",
      storageKey: "none",
      storageKeyType: "none",
      storageKeySha256: "none",
      ownerAuth: "empty",
      lockoutAuth: "empty",
      endorsementAuth: "empty",
      maxTries: 3,
      recoveryTime: 1000,
      lockoutRecovery: 1000,
      failedTries: 0,
      inLockout: "no",
      platformHierarchy: "enabled",
      recovery: {},
      recoveryKey: "",
    });
    expect(differences()).toEqual(unowned);
  });

  test("ownership is taken, and what was set is what the ciphertexts hold", async (context) => {
    const tpm = await fresh(context);
    const steps = planFor();
    expect(steps.map(({ title }) => title)).toEqual([
      "make the endorsement key of the TPM persistent",
      "make the storage root key of the TPM persistent",
      "limit how often the TPM lets authorizations be guessed",
      "set the owner authorization of the TPM",
      "set the lockout authorization of the TPM",
    ]);
    apply(steps);
    expect(differences()).toEqual([]);
    expect(planFor()).toEqual([]);
    expect(stateOf()).toMatchObject({
      storageKeyType: "ecc",
      recoveryKey: fingerprint(recovery.publicKey),
      endorsementAuth: "empty",
    });
    // The TPM's own words: without it nothing is made persistent or changed, with it, it is.
    const owner = await authorization("owner");
    await expect(tpm.run("tpm2_evictcontrol", "-C", "o", "-c", "0x81000001")).rejects.toThrow();
    await tpm.run("tpm2_evictcontrol", "-C", "o", "-P", owner, "-c", "0x81000001");
    expect(() => planFor()).toThrow(
      "the owner and lockout authorizations of the TPM are set, and there is no storage root key by which to tell",
    );
    const lockout = await authorizationGone(tpm);
    expect(lockout).not.toBe(owner);
  });

  test("root evicts the storage root key all the same, by the open platform hierarchy; with the owner authorization the same key comes back", async (context) => {
    const tpm = await fresh(context);
    apply(planFor());
    const before = stateOf();
    const owner = await authorization("owner");
    await tpm.run("tpm2_evictcontrol", "-C", "p", "-c", "0x81000001");
    expect(stateOf()).toMatchObject({ storageKey: "none", ownerAuth: "foreign", lockoutAuth: "foreign" });
    expect(planFor).toThrow(
      expect.objectContaining({ hint: expect.stringMatching(/^whoever is root can take it away/) as string }),
    );
    const attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    await tpm.run(
      ...["tpm2_createprimary", "-C", "o", "-P", owner, "-G", "ecc256:aes128cfb"],
      ...["-c", "srk", "-a", attributes],
    );
    await tpm.run("tpm2_evictcontrol", "-C", "o", "-P", owner, "-c", "srk", "0x81000001");
    expect(stateOf()).toEqual(before);
  });

  /** The storage key is gone, so the state holds no ciphertexts: they are read from where they lie. */
  async function authorizationGone(tpm: SoftwareTpm): Promise<string> {
    const text = root.sh("cat /var/lib/edgeseal/tpm/*/lockout.recovery | base64 -w 0").stdout;
    const lockout = await openRecovery(Buffer.from(text, "base64"), recovery.privateKey, {
      kind: "tpm-auth",
      node: "pi-1",
      subject: "lockout",
    });
    await tpm.run("tpm2_dictionarylockout", "-c", "-p", lockout);
    // One wrong guess, and it is locked even for who has it.
    await expect(tpm.run("tpm2_dictionarylockout", "-c")).rejects.toThrow();
    await expect(tpm.run("tpm2_dictionarylockout", "-c", "-p", lockout)).rejects.toThrow("0x00000921");
    return lockout;
  }

  test("the ciphertexts are bound: to the node, and each to its authorization", async (context) => {
    await fresh(context);
    apply(planFor());
    const { recovery: ciphertexts } = stateOf();
    const swapped = openRecovery(Buffer.from(ciphertexts["owner"] ?? "", "base64"), recovery.privateKey, {
      kind: "tpm-auth",
      node: "pi-1",
      subject: "lockout",
    });
    await expect(swapped).rejects.toThrow("it was swapped");
  });

  test("no authorization is on the node, but encrypted", async (context) => {
    await fresh(context);
    apply(planFor());
    for (const of of ["owner", "lockout"] as const) {
      const value = await authorization(of);
      expect(value).toMatch(/^[0-9a-f]{32}$/);
      expect(root.sh(`grep -rlF ${value} "$ROOT" || :`).stdout).toBe("");
    }
    expect(root.sh("ls -A /run/edgeseal").stdout).toBe("");
    expect(root.sh("find /var/lib/edgeseal/tpm ! -perm -400 -o -perm /077").stdout).toBe("");
  });

  test("every step may be done twice", async (context) => {
    await fresh(context);
    const steps = planFor();
    for (const step of steps) apply([step, step]);
    expect(differences()).toEqual([]);
    const before = stateOf();
    for (const step of steps.filter(({ title }) => !title.startsWith("limit"))) apply([step]);
    expect(stateOf()).toEqual(before);
  });

  describe("cut off while an authorization is set", () => {
    /** Has what stands for `tpm2_changeauth` end the step as a power cut does. */
    const cutOff = (script: string): void => {
      root.write("/bin/tpm2_changeauth", `#!/bin/sh\n${script}\n`);
      root.sh('chmod 755 "$ROOT/bin/tpm2_changeauth"');
      const [owner] = planFor();
      if (owner === undefined) throw new Error("no step");
      expect(() => apply([owner])).toThrow("the TPM did not take the owner authorization");
      root.remove("/bin/tpm2_changeauth");
    };
    const beforeTheTpm = "exit 143";
    const afterTheTpm = '/usr/bin/tpm2_changeauth "$@" && exit 143';
    const record = (): string => root.sh("base64 -w 0 /var/lib/edgeseal/tpm/*/owner.pending").stdout;
    /** What there is before: everything but the authorizations. */
    const withKeys = async (context: TestContext): Promise<SoftwareTpm> => {
      const tpm = await fresh(context);
      apply(planFor().slice(0, -2));
      return tpm;
    };

    test("before the TPM has it, the next plan makes another, and no set authorization is ever without its own", async (context) => {
      const tpm = await withKeys(context);
      cutOff(beforeTheTpm);
      const lost = record();
      expect(lost).toMatch(/^[A-Za-z0-9+/]{600,}=*$/);
      expect(stateOf()).toMatchObject({ ownerAuth: "empty", recovery: {} });
      apply(planFor());
      expect(stateOf().ownerAuth).toBe("ours");
      expect(stateOf().recovery["owner"]).not.toBe(lost);
      expect(record()).toBe("");
      await tpm.run("tpm2_evictcontrol", "-C", "o", "-P", await authorization("owner"), "-c", "0x81000001");
    });

    test("after the TPM took it, it is pending: its ciphertext is kept, and with it the TPM gives it back; the next plan goes on", async (context) => {
      const tpm = await withKeys(context);
      cutOff(afterTheTpm);
      expect(stateOf()).toMatchObject({ ownerAuth: "pending", recovery: { owner: record() } });
      expect(differences()).toContain("ownerAuth");
      expect(() => planFor()).toThrow("setting it was cut off here");
      await tpm.write("value", await authorization("owner"));
      await tpm.run("tpm2_changeauth", "-c", "owner", "-p", "file:value");
      expect(stateOf().ownerAuth).toBe("empty");
      apply(planFor());
      expect(differences()).toEqual([]);
    });

    test("what somebody else sets then is not taken for ours, nor is anything written over", async (context) => {
      const tpm = await withKeys(context);
      const steps = planFor();
      cutOff(beforeTheTpm);
      const kept = record();
      await tpm.run("tpm2_changeauth", "-c", "owner", "theirs");
      expect(stateOf().ownerAuth).toBe("pending");
      expect(() => planFor()).toThrow("or somebody else's");
      expect(() => apply(steps.slice(0, 1))).toThrow("whether it is edgeseal's is not known");
      expect(record()).toBe(kept);
      await tpm.write("value", await authorization("owner"));
      await expect(tpm.run("tpm2_changeauth", "-c", "owner", "-p", "file:value")).rejects.toThrow();
      await tpm.run("tpm2_changeauth", "-c", "owner", "-p", "theirs");
    });

    test("the ciphertext of one that was taken back does not speak for the next one", async (context) => {
      const tpm = await withKeys(context);
      apply(planFor());
      await tpm.run("tpm2_changeauth", "-c", "owner", "-p", await authorization("owner"));
      expect(stateOf().ownerAuth).toBe("empty");
      root.write("/bin/tpm2_changeauth", "#!/bin/sh\nexit 143\n");
      root.sh('chmod 755 "$ROOT/bin/tpm2_changeauth"');
      expect(() => apply(planFor())).toThrow("did not take the owner");
      root.remove("/bin/tpm2_changeauth");
      await tpm.run("tpm2_changeauth", "-c", "owner", "theirs");
      expect(stateOf()).toMatchObject({ ownerAuth: "pending", lockoutAuth: "ours" });
      expect(root.sh("ls /var/lib/edgeseal/tpm/*/").stdout.split("\n")).not.toContain("owner.recovery");
    });
  });

  test("a TPM2_Clear behind our back is drift, property by property; ownership is taken anew", async (context) => {
    const tpm = await fresh(context);
    apply(planFor());
    const before = stateOf();
    await tpm.run("tpm2_clear", "-c", "l", await authorization("lockout"));
    expect(differences()).toEqual(unowned);
    expect(stateOf().recovery).toEqual({});
    apply(planFor());
    const after = stateOf();
    // The same chip, with another seed for all that was sealed to it.
    expect(after.endorsementKeySha256).toBe(before.endorsementKeySha256);
    expect(after.storageKeySha256).not.toBe(before.storageKeySha256);
    expect(after.recovery["owner"]).not.toBe(before.recovery["owner"]);
  });

  test.for(["", "garbage"])(
    "a ciphertext that is '%s' is none, and the last one that was whole is to be put back",
    async (left, context) => {
      await fresh(context);
      apply(planFor());
      const { recovery } = stateOf();
      root.sh(`cd /var/lib/edgeseal/tpm/*/ && cp owner.recovery kept && printf %s '${left}' >owner.recovery`);
      expect(stateOf()).toMatchObject({ ownerAuth: "foreign", lockoutAuth: "ours" });
      expect(Object.keys(stateOf().recovery)).toEqual(["lockout"]);
      expect(() => planFor()).toThrow(
        /the ciphertext is gone from the node: put it back to .*owner.recovery/,
      );
      root.sh("cd /var/lib/edgeseal/tpm/*/ && mv kept owner.recovery");
      expect(stateOf()).toMatchObject({ ownerAuth: "ours", recovery });
    },
  );

  test("somebody else's authorization is not taken for ours, before and after a clear", async (context) => {
    const tpm = await fresh(context);
    await tpm.run("tpm2_changeauth", "-c", "owner", "theirs");
    expect(stateOf().ownerAuth).toBe("foreign");
    expect(() => planFor()).toThrow(
      "the owner authorization of the TPM is set, and there is no storage root key",
    );
    await tpm.run("tpm2_clear", "-c", "p");
    apply(planFor());
    await tpm.run("tpm2_clear", "-c", "p");
    await tpm.run("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "theirs.ctx");
    await tpm.run("tpm2_evictcontrol", "-C", "o", "-c", "theirs.ctx", "0x81000001");
    await tpm.run("tpm2_changeauth", "-c", "lockout", "theirs");
    expect(stateOf()).toMatchObject({ ownerAuth: "empty", lockoutAuth: "foreign" });
    expect(() => planFor()).toThrow("the lockout authorization of the TPM is set, and not by edgeseal");
    await tpm.run("tpm2_clear", "-c", "p");
  });

  test("a plan that is late finds it set, and leaves it alone", async (context) => {
    const tpm = await fresh(context);
    const steps = planFor();
    apply(steps.slice(0, -2));
    await tpm.run("tpm2_changeauth", "-c", "owner", "theirs");
    expect(() => apply(steps.slice(-2, -1))).toThrow("the owner authorization is set, and not by edgeseal");
    await tpm.run("tpm2_changeauth", "-c", "owner", "-p", "theirs", "still-theirs");
  });

  test("the pinned TPM is taken, another is refused, both named, and nothing is done to it", async (context) => {
    const tpm = await fresh(context);
    const other = "ab".repeat(32);
    const pinned = { ...inputs, endorsementKeySha256: other };
    // Not persistent yet, so only the device can tell.
    const [first] = planFor(pinned);
    if (first === undefined) throw new Error("no step");
    expect(() => apply([first])).toThrow(/this is another TPM: .* is [0-9a-f]{64}, and (ab){32} is pinned/);
    expect((await tpm.run("tpm2_getcap", "handles-persistent")).trim()).toBe("");
    apply(planFor());
    const { endorsementKeySha256: digest } = stateOf();
    expect(() => planFor(pinned)).toThrow(`is ${digest}, and ${other} is pinned`);
    expect(planFor({ ...inputs, endorsementKeySha256: digest })).toEqual([]);
  });

  test("something else in a key's place is not overwritten", async (context) => {
    const tpm = await fresh(context);
    await tpm.run(
      "tpm2_createprimary",
      "-C",
      "o",
      "-G",
      "rsa",
      "-a",
      "sign|userwithauth|fixedtpm|fixedparent|sensitivedataorigin",
      "-c",
      "x.ctx",
    );
    await tpm.run("tpm2_evictcontrol", "-C", "o", "-c", "x.ctx", "0x81000001");
    expect(stateOf().storageKey).toBe("other");
    expect(() => planFor()).toThrow("at 0x81000001 the TPM has something else than the storage root key");
  });

  test("limits that differ once they are guarded are refused, with what to do", async (context) => {
    const tpm = await fresh(context);
    apply(planFor());
    const fewer = { ...inputs, maxTries: 5 };
    expect(differences(fewer)).toEqual(["maxTries"]);
    expect(() => planFor(fewer)).toThrow(
      /takes the lockout authorization.*--max-tries=5 --recovery-time=600/,
    );
    await tpm.run(
      "tpm2_dictionarylockout",
      "--setup-parameters",
      "--max-tries=5",
      "--recovery-time=600",
      "--lockout-recovery-time=86400",
      "-p",
      await authorization("lockout"),
    );
    expect(planFor(fewer)).toEqual([]);
  });
});

describe("without one", () => {
  test("there is nothing to own", () => {
    root.remove("/sys/class/tpm");
    expect(stateOf()).toMatchObject({ tpm: "none", tools: "missing", ownerAuth: "unknown" });
    expect(stateOf()).not.toHaveProperty("maxTries");
    expect(() => planFor()).toThrow(PlanRefused);
    expect(() => planFor()).toThrow("have its overlay in config.txt (edgeseal:boot:FirmwareConfig)");
  });

  test("of version 2.0 neither", () => {
    root.write("/sys/class/tpm/tpm0/tpm_version_major", "1\n");
    expect(() => planFor()).toThrow("TPM 1.2");
  });

  test("what no version is, is unknown", () => {
    root.write("/sys/class/tpm/tpm0/tpm_version_major", "x\n");
    expect(() => stateOf()).toThrow(UnknownObservation);
  });

  test("without its tools it is not known, and they are installed first", () => {
    const probe = tpmOwnership.observe(inputs);
    const parts = Object.fromEntries(
      Object.keys(probe.parts).map((name) => [name, { code: 0, stdout: "", stderr: "" }]),
    );
    const observed = probe.parse({ ...parts, kernel: { code: 0, stdout: "2\n", stderr: "" } });
    expect(observed).toMatchObject({
      state: { tools: "missing", ownerAuth: "unknown", endorsementKey: "unknown" },
    });
    const steps = tpmOwnership.plan(inputs, observed, route);
    expect(steps.slice(0, 2)).toMatchObject([
      { kind: "package", package: "tpm2-tools" },
      { kind: "package", package: "openssl" },
    ]);
    expect(steps).toHaveLength(7);
  });

  test.each([
    ["properties", "TPM2_PT_PERMANENT:\n  ownerAuthSet: 7\n"],
    ["properties", ""],
    ["keys", "@ 0x81000001\nname: none\n"],
    ["records", "a b c\n"],
  ])("an answer that makes no sense is unknown: %s %j", (name, stdout) => {
    const probe = tpmOwnership.observe(inputs);
    const parts = Object.fromEntries(
      Object.keys(probe.parts).map((each) => [each, { code: 0, stdout: "", stderr: "" }]),
    );
    expect(() =>
      probe.parse({
        ...parts,
        kernel: { code: 0, stdout: "2\ntools\n", stderr: "" },
        [name]: { code: 0, stdout, stderr: "" },
      }),
    ).toThrow(UnknownObservation);
    expect(() =>
      probe.parse({
        ...parts,
        [name]: { code: 1, stdout: "", stderr: "TPM failure" },
        kernel: { code: 0, stdout: "2\ntools\n", stderr: "" },
      }),
    ).toThrow("TPM failure");
  });
});

test("it is not given back behind a promise that can't be kept", () => {
  expect(() => tpmOwnership.revert(inputs, { outcome: "absent" })).toThrow(
    "only be taken back with the site's recovery key",
  );
});

test("a recovery key that is none, is private or too small is a fault of the input", () => {
  const problems = (recoveryPublicKey: string): readonly string[] =>
    (tpmOwnership.check?.({ ...inputs, recoveryPublicKey }) ?? []).map(({ path }) => path);
  expect(problems(recovery.publicKeyPem)).toEqual([]);
  expect(problems("nothing")).toEqual(["recoveryPublicKey"]);
  expect(problems(recovery.privateKeyPem)).toEqual(["recoveryPublicKey"]);
  expect(problems(testKey("policy").publicKeyPem)).toEqual(["recoveryPublicKey"]);
});
