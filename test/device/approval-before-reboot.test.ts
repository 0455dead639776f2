import { afterEach, beforeEach, expect, test } from "vitest";
import { rebootSteps, type RebootInputs } from "../../provider/resources/reboot-inputs.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { approved, site } from "../unit/resources/sealed-volume-example.ts";
import { apply, sessionTo } from "./steps-on-node.ts";

/* What `boot:FirmwareConfig` and `boot:MeasuredBoot` end in, on a node with a sealed volume that asks for the approval of its next boot. */

const approvals = "/etc/edgeseal/trust/approvals.json";
let node: NamespaceNode;

beforeEach(async () => {
  node = await NamespaceNode.start();
  // The measuring program, as far as a reboot asks it: the next boot is the one that the site has approved.
  await node.must(`mkdir -p /etc/edgeseal/volumes /usr/lib/edgeseal; : >/etc/edgeseal/volumes/models.conf
printf '#!/bin/sh\\ncase $1 in --next) ;; *) cat >/dev/null; echo ${site.pol} ;; esac\\n' >/usr/lib/edgeseal/measure
chmod 755 /usr/lib/edgeseal/measure`);
});
afterEach(() => node.stop());

const bootId = (): Promise<string> => node.must("cat /proc/sys/kernel/random/boot_id");
const given: RebootInputs = { reboot: "ifNeeded", rebootUnapproved: "refuse" };
const verified = { ...given, node: "pi-1", policyKey: site.key.publicKeyPem, generation: 1 };
const steps = (inputs: RebootInputs) => rebootSteps(inputs, "reboot", new Date());

test("the reboot into an approved state is refused until the approval is shipped, and then made", async () => {
  // As a volume has it that was formed before anything was approved.
  await node.must(`mkdir -p /etc/edgeseal/trust; echo '{ "sha256": [] }' >${approvals}`);
  await using session = sessionTo(node.connection);
  const before = await bootId();
  expect((await apply(session, steps(given))).failure).toMatchObject({ kind: "refused" });
  expect(await bootId()).toBe(before);

  const back = node.bootAfterReset();
  const result = await apply(session, steps({ ...verified, approval: site.approval }));
  await back;
  expect(result.failure).toBeUndefined();
  expect(await bootId()).not.toBe(before);
  expect(JSON.parse(await node.must(`cat ${approvals}`))).toMatchObject({ sha256: [{ pol: site.pol }] });
  expect(await node.must(`stat -c '%a %U:%G' ${approvals}`)).toBe("644 root:root\n");
});

test("an approval by another policy key is not put in the place of the one that volumes open by", async () => {
  await node.must(
    `mkdir -p /etc/edgeseal/trust; echo '{"sha256":[{"pkfp":"${"ab".repeat(32)}","pol":"x"}]}' >${approvals}
echo 'fact tokens.0.tpm2_pubkey ${Buffer.from(site.key.publicKeyPem).toString("base64")}' >/etc/edgeseal/volumes/models.pins`,
  );
  await using session = sessionTo(node.connection);
  const [boot, content] = [await bootId(), await node.must(`cat ${approvals}`)];
  const other = await approved("pi-1", 2);
  const inputs = { ...verified, policyKey: other.key.publicKeyPem, generation: 2, approval: other.approval };
  const { failure } = await apply(session, steps(inputs));
  expect(failure).toMatchObject({ kind: "stepFailed" });
  expect(failure?.message).toMatch(
    /another policy key, whose approvals would go: models; edgeseal volume recover pi-1/,
  );
  expect([await bootId(), await node.must(`cat ${approvals}`)]).toEqual([boot, content]);
});
