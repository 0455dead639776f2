import { expect, test } from "vitest";
import { SiteFileError } from "../../../components/site-file/problem.ts";
import { parseSite } from "../../../components/site-file/read.ts";

const site = (hook: string, node = `hostKey: ssh-ed25519 ${key}`): string => `site: plant
defaults:
  hooks:
    afterApply:
      tell: { on: here, command: notify }
nodes:
  - name: pi-1
    address: 192.0.2.1
    ${node}
    hooks:
      afterApply:
        smoke: ${hook}
`;
const key = `AAAAC3NzaC1lZDI1NTE5AAAAI${"A".repeat(43)}`;

function faults(text: string): string {
  try {
    parseSite("plant.yaml", text);
    return "";
  } catch (error) {
    if (!(error instanceof SiteFileError)) throw error;
    return error.message;
  }
}

test("hooks of a node and of `defaults` merge by name", () => {
  const [node] = parseSite("plant.yaml", site("{ on: node, command: check }")).nodes;
  expect(node?.hooks?.afterApply).toEqual({
    tell: { on: "here", command: "notify" },
    smoke: { on: "node", command: "check" },
  });
});

test("a literal secret is refused where it stands, and not shown", () => {
  const said = faults(site("{ on: here, command: check, environment: { TOKEN: s3cr3t } }"));
  expect(said).toContain("plant.yaml:12:");
  expect(said).toContain("nodes[0].hooks.afterApply.smoke.environment.TOKEN");
  expect(said).toContain("pulumi config set --secret");
  expect(said).not.toContain("s3cr3t");
});

test("a hook on a node whose host key is a fingerprint, or whose private key is a file, is refused at its line", () => {
  expect(faults(site("{ on: node, command: check }", `hostKey: SHA256:${"A".repeat(43)}`))).toMatch(
    /^plant\.yaml:12:.*nodes\[0\]\.hooks\.afterApply\.smoke: .*whole host key/,
  );
  const file = `hostKey: ssh-ed25519 ${key}\n    identityFile: ~/.ssh/id`;
  expect(faults(site("{ on: node, command: check }", file))).toContain("into Pulumi's state");
  expect(faults(site("{ on: here, command: check }", file))).toBe("");
});

test("secrets for a hook on a node are refused at the hook's line; a comment after the host key is none of its business", () => {
  const node = `hostKey: ssh-ed25519 ${key} root@pi`;
  const secret = "command: check, environment: { TOKEN: { config: token } }";
  expect(faults(site(`{ on: node, ${secret} }`, node))).toMatch(
    /plant\.yaml:12:.*nodes\[0\]\.hooks\.afterApply\.smoke: its `environment` would go to whoever has/,
  );
  expect(faults(site(`{ on: here, ${secret} }`, node))).not.toContain("hooks");
  expect(faults(site("{ on: node, command: check }", node))).not.toContain("hooks");
});
