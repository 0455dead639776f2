import { spawnSync } from "node:child_process";
import type { Connection } from "../../../provider/connection.ts";
import type { Session } from "../../../provider/device/session.ts";
import { onDevice, type MeasuredNode } from "../resources/measure-fixture.ts";

export const connection: Connection = {
  node: "pi-1",
  address: "192.0.2.1",
  port: 22,
  user: "root",
  hostKey: `SHA256:${"A".repeat(43)}`,
};

export interface LocalSession extends Session {
  closed: boolean;
}

/** A session whose device is a folder of this machine: scripts run here, with the device's paths in the folder. */
export function localSession(node: MeasuredNode): LocalSession {
  const run: Session["run"] = (script) => {
    const program = `sh '${onDevice("measure")}' --root '${node.root}'`;
    const here = script
      .replaceAll("[ -x /usr/lib/edgeseal/measure ]", `[ -f ${node.root}/usr/lib/edgeseal/measure ]`)
      .replaceAll("/usr/lib/edgeseal/measure --next", `${program} --next`)
      .replaceAll(/\/(run|sys|var|boot)\//g, `${node.root}/$1/`);
    const { status, stdout, stderr } = spawnSync("sh", ["-c", 'eval "$(cat)"'], {
      input: here,
      encoding: "utf8",
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C" },
    });
    return Promise.resolve({ code: status ?? 1, stdout, stderr });
  };
  return {
    node: "pi-1",
    run,
    runOnNewConnection: run,
    connect: () => Promise.resolve({ node: "pi-1", run }),
    close() {
      this.closed = true;
      return Promise.resolve();
    },
    connected: true,
    counts: { connections: 1, execs: 1 },
    closed: false,
  };
}
