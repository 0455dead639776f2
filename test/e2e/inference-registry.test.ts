import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pushArchive } from "../../cli/image/push.ts";
import { ssh2Transport } from "../../provider/device/ssh2-transport.ts";
import type { Transport } from "../../provider/device/transport.ts";
import type { InferenceContainerInputs } from "../../provider/resources/inference-container-inputs.ts";
import { Registry } from "../../testbed/registry.ts";
import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { formsIn, formsOf } from "../secret-forms.ts";
import { probeImage } from "./escape/image.ts";
import { InferenceSupply, policyOf, serviceOf, startPrepared, stateOf } from "./inference-node.ts";
import { bringUp, driftOf, endorsementKeyOf, onPi, type Declared } from "./provider-on-pi.ts";
import { attach, makeImage, push, signatureOf, signingKey } from "./signed-images.ts";

/*
 * An image that a node pulls itself, from a registry that asks for a login: by digest, under the node's policy. What serves is the escape suite's small program, which starts at once.
 */

const supplies = new InferenceSupply();
const folder = mkdtempSync(join(tmpdir(), "edgeseal-login-"));
const login = { username: "puller", password: "pAsSwOrD-4f1d7c92e6b3" };
const environment = { ...process.env };

/** containers-auth.json(5) */
const authsOf = (host: string): string =>
  JSON.stringify({
    auths: {
      [host]: { auth: Buffer.from(`${login.username}:${login.password}`).toString("base64") },
    },
  });

let pi: VirtualPi;
let registry: Registry;
let repository: string;
let image: string;
let unsigned: string;
let base: InferenceContainerInputs;

beforeAll(async () => {
  registry = await Registry.start(login);
  // As `podman login` would leave it, for what `edgeseal image push` pushes with.
  writeFileSync(join(folder, "auth.json"), authsOf(registry.host), { mode: 0o600 });
  process.env["REGISTRY_AUTH_FILE"] = join(folder, "auth.json");
  // The registry as the node names it.
  repository = `10.0.2.2:${registry.port}/edge/llama-server`;
  const { layout, digest } = await probeImage();
  const signed = await supplies.signed(layout, digest, "1", supplies.key, repository);
  await pushArchive(signed.archive, {
    destination: `${registry.host}/edge/llama-server:1`,
    byAnotherName: true,
  });
  image = signed.image;
  const other = await makeImage("unsigned");
  await push(registry, "edge/llama-server", "unsigned", other);
  unsigned = `${repository}@${other.digest}`;

  const supply = { ...signed, model: await supplies.notAModel() };
  const { archive: _, ...inputs } = serviceOf(supply, { startTimeoutSeconds: 300 }).inputs;
  base = inputs;
  pi = await startPrepared(supply, supplies.key, {
    network: "nat",
    policy: policyOf(supplies.key, { image: repository }),
  });
  await onPi(
    pi,
    `printf '[[registry]]\\nlocation = "10.0.2.2:${registry.port}"\\ninsecure = true\\n' >/etc/containers/registries.conf.d/test.conf`,
  );
  // What is looked for is in no argument of what looks for it.
  const forms = Object.values(formsOf("password", login.password)).join("\n");
  const { code } = await pi.exec("sudo -n tee /run/forms >/dev/null", { stdin: forms });
  expect(code).toBe(0);
});

afterAll(async () => {
  process.env = environment;
  // They don't exist when their start failed.
  await (pi as VirtualPi | undefined)?.stop();
  await (registry as Registry | undefined)?.stop();
  supplies[Symbol.dispose]();
  rmSync(folder, { recursive: true });
});

const service = (change: Partial<InferenceContainerInputs> = {}): Declared => ({
  ...serviceOf({ image, archive: "", model: { digest: base.model, file: "", statement: "" } }),
  inputs: { ...base, ...change },
});

/** What goes to the node on standard input, by connection. */
type Sent = string[][];

/** A transport that notes what goes over it. */
function noting(sent: Sent): { readonly transport: Transport } {
  const ssh = ssh2Transport();
  return {
    transport: {
      async connect(connection, options) {
        const link = await ssh.connect(connection, options);
        const execs: string[] = [];
        sent.push(execs);
        return {
          exec: (command, given) => {
            execs.push(`${command}\n${given.stdin ?? ""}`);
            return link.exec(command, given);
          },
          close: () => link.close(),
          get open() {
            return link.open;
          },
        };
      },
    },
  };
}

/** The login, for the node's TPM only: the one with this endorsement key. */
const loginFor = (endorsementKeySha256: string) => ({ ...login, endorsementKeySha256 });

/** What an update fails with. */
const failure = (declared: Declared, sent: Sent = []): Promise<string> =>
  bringUp(pi, declared, undefined, noting(sent)).then(
    () => "it succeeded",
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );

/** Prints arguments and environments of processes that have the password in them. */
const look = "grep -lsaF -f /run/forms /proc/[0-9]*/cmdline /proc/[0-9]*/environ";

/** Files of the node, and messages in its journal, that have the password in them. */
const traces = (): Promise<string> =>
  onPi(
    pi,
    `grep -rlsaF --devices=skip -f /run/forms --exclude=forms /etc /home /root /run /srv /tmp /var || :
journalctl -q -o cat --no-pager | grep -acF -f /run/forms | grep -vx 0 || :`,
  );

test("without a login the registry's refusal is the error, and what to do about it", async () => {
  const said = await failure(service());
  expect(said).toContain(`podman does not take ${image.replace(":1@", "@")}: `);
  expect(said).toContain("; the registry asks for a login: give registryAuth a name and a password");
});

test("with a wrong password, too; and the password is in no message, nor left on the node", async () => {
  const registryAuth = { ...loginFor(await endorsementKeyOf(pi)), password: `not-${login.password}` };
  const said = await failure(service({ registryAuth }));
  expect(said).toMatch(/podman does not take .*; the registry does not take this login: see that the name/);
  expect(said).not.toContain(login.password);
  expect(await traces()).toBe("");
});

test("with a login for another TPM than the node has nothing of the update is sent, and both are named", async () => {
  const [own, pinned] = [await endorsementKeyOf(pi), "e1".repeat(32)];
  const sent: Sent = [];
  const said = await failure(service({ registryAuth: loginFor(pinned) }), sent);
  expect(said).toMatch(
    /^pi: 'take the image .*' was not done, nor anything else: what it sends is for the pinned TPM only, and pi has another TPM: /,
  );
  expect(said).toContain(`is ${own}, and ${pinned} is pinned; if the TPM was replaced on purpose`);
  expect(formsIn(sent.flat().join("\n"), formsOf("password", `${login.username}:${login.password}`))).toEqual(
    [],
  );
  expect(sent.flat().filter((script) => script.includes("podman does not take"))).toEqual([]);
  expect(sent).toHaveLength(1);
  expect(await traces()).toBe("");
  expect(await onPi(pi, "ls -A /run/edgeseal/challenge.* 2>/dev/null || :")).toBe("");
});

test("with the right one, for the TPM that it has, the image comes from the registry and serves, and the password is in no argument and no environment meanwhile, and nowhere afterwards", async () => {
  await onPi(
    pi,
    `cat >/run/sample <<'X'
# Up to what follows on the pull.
until [ -e /etc/systemd/system/edgeseal-inference.service ]; do
  ${look} >>/run/seen
  stat -c '%n %a %U' /run/edgeseal.logins /run/edgeseal.logins/* >>/run/files 2>/dev/null
  sleep 0.5
done
X
systemd-run --quiet --unit=sample --nice=19 sh /run/sample`,
  );
  const sent: Sent = [];
  const own = await endorsementKeyOf(pi);
  await bringUp(pi, service({ registryAuth: loginFor(own) }), undefined, noting(sent));
  // One connection: the node was looked at, its TPM answered, and the password was in what came right after that, once.
  expect(sent).toHaveLength(1);
  const forms = formsOf("password", `${login.username}:${login.password}`);
  const what = (sent[0] ?? []).map((script) => {
    if (formsIn(script, forms).length > 0) return "password";
    return /\n(introduce_tpm|answer_challenge)'/.exec(script)?.[1] ?? "neither";
  });
  expect(what.slice(what.indexOf("introduce_tpm"))).toEqual([
    "introduce_tpm",
    "answer_challenge",
    "password",
  ]);
  expect(what.filter((each) => each === "password")).toHaveLength(1);
  const { image: served, health, leftovers } = await stateOf(pi, service({ registryAuth: loginFor(own) }));
  expect({ served, health, leftovers }).toEqual({
    served: image.slice(image.indexOf("@") + 1),
    health: "healthy",
    leftovers: [],
  });
  expect(await onPi(pi, "cat /run/seen")).toBe("");
  // Where it was, as far as it was not on its way from root to the user that podman runs as.
  const files = new Set((await onPi(pi, "cat /run/files")).trim().split("\n"));
  files.delete("/run/edgeseal.logins/inference.json 600 root");
  expect(files).toEqual(
    new Set(["/run/edgeseal.logins 711 root", "/run/edgeseal.logins/inference.json 600 edgeseal-inference"]),
  );
  expect(await traces()).toBe("");
  // The control: what is searched for would be found.
  const control = `IT="$(head -n 1 /run/forms)" sleep 60 & sleep 1; ${look}; kill $!; cp /run/forms /var/tmp/control`;
  expect(await onPi(pi, control)).toMatch(/^\/proc\/\d+\/environ\n/);
  expect(await traces()).toBe("/var/tmp/control\n");
  await onPi(pi, "rm /var/tmp/control");
});

test("a login that a pull which was cut off left is named by a refresh, and removed", async () => {
  const registryAuth = loginFor(await endorsementKeyOf(pi));
  const declared = service({ registryAuth });
  await onPi(pi, "touch /run/edgeseal.logins/inference.json");
  expect(await driftOf(pi, declared)).toEqual(["leftovers"]);
  await bringUp(pi, declared);
  expect(await onPi(pi, "ls /run/edgeseal.logins")).toBe("");
});

test("what the login lets in, the policy does not, unless it is signed; and what serves goes on", async () => {
  const registryAuth = loginFor(await endorsementKeyOf(pi));
  const declared = service({ registryAuth });
  const invocation = "systemctl show -P InvocationID edgeseal-inference";
  const before = await onPi(pi, invocation);
  expect(await failure(service({ registryAuth, image: unsigned }))).toMatch(
    /podman does not take .*signature.*; have it signed by a key that the image policy/,
  );
  expect(await onPi(pi, invocation)).toBe(before);
  expect(await driftOf(pi, declared)).toEqual([]);
  expect(await traces()).toBe("");
});

test("by hand, as the service's own user and with its login, nothing else is pulled either: unsigned, by another key, a tag that was moved", async () => {
  const name = "edge/llama-server";
  const other = await makeImage("signed by another key");
  await push(registry, name, "other", other);
  await attach(registry, name, other, await signatureOf(other.digest, `${repository}:other`, signingKey()));
  await push(registry, name, "2", await makeImage("what its tag says before"));
  const moved = await makeImage("what its tag says now");
  await push(registry, name, "2", moved);
  await attach(registry, name, moved, await signatureOf(moved.digest, `${repository}:before`, supplies.key));
  const auth = "/run/edgeseal-inference/by-hand.json";
  const byHand = (...words: readonly string[]): Promise<string> =>
    onPi(
      pi,
      `cd /; runuser -u edgeseal-inference -- env $(systemctl show -P Environment edgeseal-inference) REGISTRY_AUTH_FILE=${auth} podman --root ${base.storage} ${words.join(" ")} 2>&1 || :`,
    );
  const digests = async (): Promise<ReadonlySet<string>> =>
    new Set((await byHand("images", "--digests", "--format", "'{{.Digest}}'")).match(/^sha256:\w+$/gm));
  const had = await digests();
  const { code } = await pi.exec(`sudo -n install -m 600 -o edgeseal-inference /dev/stdin ${auth}`, {
    stdin: authsOf(`10.0.2.2:${registry.port}`),
  });
  expect(code).toBe(0);

  expect(await byHand("pull", `${repository}:unsigned`)).toMatch(/signature was required, but no signature/);
  expect(await byHand("pull", `${repository}:other`)).toMatch(/cryptographic signature verification failed/);
  expect(await byHand("pull", `${repository}:2`)).toMatch(
    /Signature for identity .*:before" is not accepted/,
  );
  // The control: with the same words what is signed is taken.
  const [signed = ""] = image.split("@");
  expect(await byHand("pull", "-q", signed)).toMatch(/(^|\n)[0-9a-f]{64}\n$/);
  expect(had.size).toBe(1);
  expect(await digests()).toEqual(had);
  await onPi(pi, `rm ${auth}`);
});
