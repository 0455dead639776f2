import { afterAll, beforeAll, expect, test } from "vitest";
import { inferenceContainerProbe } from "../../provider/resources/inference-container-observation.ts";
import { onDevice } from "../../provider/resources/managed-files.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { example } from "../unit/resources/inference-container-example.ts";

/*
 * A server writes to the stream that podman got from systemd, into the same journal: a shell stands for podman here, with control groups as podman makes them of a unit's (`--cgroups=split`).
 */

const unit = "edgeseal-inference.service";

/** `journalctl --sync`: a line's writer is looked up when journald reads it, and must be there still. */
const podman = `#!/bin/sh
group=/sys/fs/cgroup/system.slice/${unit}
mkdir "$group/runtime" "$group/libpod-payload-1"
echo $$ >"$group/runtime/cgroup.procs"
echo 'Error: of podman' >&2
journalctl --sync
sh -c 'echo $$ >"$0/libpod-payload-1/cgroup.procs" && exec /usr/local/bin/server' "$group"
`;
const server = `#!/bin/sh
echo 'Error: of the server, with a part of a prompt'
echo 'Error: of the server, with another' >&2
journalctl --sync
`;

let node: NamespaceNode;
beforeAll(async () => {
  node = await NamespaceNode.start();
  await write("/usr/local/bin/podman", podman);
  await write("/usr/local/bin/server", server);
  await write("/usr/lib/edgeseal/start-inference", onDevice("start-inference"));
  await write("/usr/lib/edgeseal/ask-inference", "#!/bin/sh\nexit 1\n");
});
afterAll(() => node.stop());

const write = (path: string, content: string): Promise<string> =>
  node.must(`mkdir -p ${path.replace(/\/[^/]*$/, "")}
cat >${path} <<'END'
${content}END
chmod 0755 ${path}`);

/** What the start of such a unit says when it ends, and what is read of it then. */
async function reasons(setting: string): Promise<{ readonly ofStart: string; readonly observed: string }> {
  await write(
    `/etc/systemd/system/${unit}`,
    `[Service]\nExecStart=/usr/local/bin/podman\nDelegate=yes\n${setting}\n`,
  );
  const { stderr } = await node.exec(
    "cd / && /usr/lib/edgeseal/start-inference inference 60 /run/none.sock /health",
  );
  const { stdout } = await node.exec(inferenceContainerProbe(example).parts["reason"] ?? "exit 99");
  return { ofStart: stderr.trim().split("\n").at(-1) ?? "", observed: stdout.trim() };
}

test("podman's words are the reason, and never the server's", async () => {
  expect(await reasons("Type=exec")).toEqual({
    ofStart: `${unit} does not serve: Error: of podman (journalctl -u ${unit} tells more)`,
    observed: "Error: of podman",
  });
  expect(await node.must(`journalctl -q -o cat -u ${unit}`)).toContain("with a part of a prompt");
});

test("systemd's words are the reason, also those from before podman runs", async () => {
  const exited = `${unit}: Main process exited, code=exited, status=226/NAMESPACE`;
  const { ofStart, observed } = await reasons("Type=exec\nRootDirectory=/nowhere");
  expect(ofStart).toMatch(/does not serve: .*: Failed at step NAMESPACE spawning .*: Main process exited/);
  expect(observed).toBe(exited);
});
