import { afterAll, beforeAll, expect, test } from "vitest";
import { startInference } from "../../provider/resources/inference-container-files.ts";
import { inferenceContainerProbe } from "../../provider/resources/inference-container-observation.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { example } from "../unit/resources/inference-container-example.ts";

/*
 * A server writes to the stream that podman got from systemd, into the same journal: a shell stands for podman here, with control groups as podman makes them of a unit's (`--cgroups=split`).
 */

const unit = "edgeseal-inference.service";

const podman = `#!/bin/sh
group=/sys/fs/cgroup/system.slice/${unit}
mkdir "$group/runtime" "$group/libpod-payload-1"
echo $$ >"$group/runtime/cgroup.procs"
serve() { sh -c 'echo $$ >"$0/libpod-payload-1/cgroup.procs" && exec /usr/local/bin/server' "$group"; }
. /etc/podman-does
`;
/** `journalctl --sync`: a line's writer is looked up when journald reads it. A server that serves is there then; podman, which ends with its last line, mostly is not. */
const server = `#!/bin/sh
echo 'Error: of the server, with a part of a prompt'
echo 'Error: of the server, with another' >&2
journalctl --sync
exit 1
`;
const fails = "echo 'Error: of podman' >&2; exit 125";
const forking = "Type=forking\nPIDFile=/run/conmon.pid";

let node: NamespaceNode;
beforeAll(async () => {
  node = await NamespaceNode.start();
  await write("/usr/local/bin/podman", podman);
  await write("/usr/local/bin/server", server);
  await write("/usr/lib/edgeseal/start-inference", startInference);
  await write("/usr/lib/edgeseal/ask-inference", "#!/bin/sh\nexit 1\n");
  // Enabled, as it is on a node: systemd forgets what nothing wants.
  await node.must(
    `cd /etc/systemd/system && mkdir -p multi-user.target.wants && ln -s ../${unit} multi-user.target.wants/${unit}`,
  );
});
afterAll(() => node.stop());

const write = (path: string, content: string): Promise<string> =>
  node.must(`mkdir -p ${path.replace(/\/[^/]*$/, "")}
cat >${path} <<'END'
${content}END
chmod 0755 ${path}`);

const observed = async (): Promise<string> =>
  (await node.exec(inferenceContainerProbe(example).parts["reason"] ?? "exit 99")).stdout.trim();

/** What the start of such a unit says when it ends, and what is read of it then. */
async function reasons(
  does: string,
  { service = forking, inUnit = "" } = {},
): Promise<{ readonly ofStart: string; readonly observed: string }> {
  await write("/etc/podman-does", `${does}\n`);
  await write(
    `/etc/systemd/system/${unit}`,
    `[Unit]\n${inUnit}\n[Service]\nExecStart=/usr/local/bin/podman\nDelegate=yes\n${service}\n`,
  );
  const { stderr } = await node.exec(
    "cd / && /usr/lib/edgeseal/start-inference inference 60 /run/none.sock /health",
  );
  return { ofStart: stderr.trim().split("\n").at(-1) ?? "", observed: await observed() };
}
const told = (words: string): Awaited<ReturnType<typeof reasons>> => ({
  ofStart: `${unit} does not serve: ${words} (journalctl -u ${unit} tells more)`,
  observed: words,
});
const exited = `${unit}: Control process exited, code=exited, status=125/n/a`;

test("podman's words are the reason, though it is gone before journald looks who wrote them", async () => {
  for (let start = 0; start < 6; start++) expect(await reasons(fails)).toEqual(told("Error: of podman"));
});

test("the server's words are not, whether podman fails after them or the server itself does", async () => {
  expect(await reasons("serve; exit 125")).toEqual(told(exited));
  expect((await reasons(`serve; ${fails}`)).observed).toMatch(/^Error: of podman$|Control process exited/);
  expect(await reasons("serve & echo $! >/run/conmon.pid")).toEqual(
    told(`${unit}: Main process exited, code=exited, status=1/FAILURE`),
  );
  expect(await node.must(`journalctl -q -o cat -u ${unit}`)).toContain("with a part of a prompt");
});

test("nor are those of a program that runs without podman", async () => {
  expect(
    await reasons("echo 'Error: with a part of a prompt' >&2; exit 125", { service: "Type=exec" }),
  ).toEqual(told(`${unit}: Main process exited, code=exited, status=125/n/a`));
});

test("systemd's words are the reason before podman runs", async () => {
  expect(await reasons("", { service: `${forking}\nRootDirectory=/nowhere` })).toEqual(
    told(`${unit}: Control process exited, code=exited, status=226/NAMESPACE`),
  );
});

test("that an assertion of its unit failed is the reason, until it holds", async () => {
  const asserting = { inUnit: "AssertPathExists=/etc/asserted" };
  await node.must("rm -f /etc/asserted");
  expect((await reasons(fails, asserting)).observed).toMatch(/^systemd refused to start it: an assertion/);
  await node.must("touch /etc/asserted");
  expect(await reasons(fails, asserting)).toEqual(told("Error: of podman"));
});

test("of a unit that is started over and over, why it ended the time before", async () => {
  const { ofStart } = await reasons(fails, { service: `${forking}\nRestart=always\nRestartSec=100ms` });
  expect(ofStart).toContain("it ended three times: Error: of podman (");
});

test("a failure of an earlier start is no reason of one that ran well and was stopped", async () => {
  expect((await reasons(fails)).observed).toBe("Error: of podman");
  await write("/etc/podman-does", "sleep infinity & echo $! >/run/conmon.pid\n");
  await node.must(`systemctl start ${unit}`);
  expect(await observed()).toBe("");
  await node.must(`systemctl stop ${unit}`);
  expect(await node.must(`systemctl is-failed ${unit} || :`)).toMatch(/^inactive$/m);
  expect(await observed()).toBe("");
});
