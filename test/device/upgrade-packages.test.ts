import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { upgradePackages } from "../../provider/resources/measured-boot-update.ts";
import { NamespaceNode } from "../../testbed/namespace/node.ts";
import { apply, sessionTo } from "./steps-on-node.ts";

/*
 * `edgeseal update --upgrade` with Debian's own apt, and an archive in a folder of the node.
 */

let node: NamespaceNode;
let session: ReturnType<typeof sessionTo>;

/** A package of one configuration file. */
const packed = (name: string, version: string, afterInstallation = "exit 0", depends = ""): string => `
rm -rf /srv/build && mkdir -p /srv/build/DEBIAN /srv/build/etc
printf '%s\n' 'Package: ${name}' 'Version: ${version}' 'Architecture: all' 'Maintainer: nobody <nobody@example.org>' 'Description: for a test'${depends === "" ? "" : ` 'Depends: ${depends}'`} >/srv/build/DEBIAN/control
printf '/etc/${name}.conf\n' >/srv/build/DEBIAN/conffiles
printf '#!/bin/sh\n%s\n' '${afterInstallation}' >/srv/build/DEBIAN/postinst
chmod 755 /srv/build/DEBIAN/postinst
echo 'from ${version}' >/srv/build/etc/${name}.conf
dpkg-deb --root-owner-group -Zgzip -b /srv/build /srv/archive/${name}_${version}.deb >/dev/null
`;

/** Lists what lies in the archive, as dpkg-scanpackages does, which is no part of a node. */
const listed = `cd /srv/archive && for each in *.deb; do
  dpkg-deb -f "$each"
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$each" "$(stat -c %s "$each")" "$(sha256sum "$each" | cut -d ' ' -f 1)"
done >Packages`;

const versions = async (): Promise<string> =>
  node.must("dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n' one needed 2>/dev/null || :");

beforeAll(async () => {
  node = await NamespaceNode.start();
  session = sessionTo(node.connection);
  await node.must("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*");
});

afterAll(async () => {
  await session.close();
  await node.stop();
});

beforeEach(async () => {
  await node.must(`set -e
dpkg --purge --force-all one needed >/dev/null 2>&1 || :
rm -rf /srv/archive && mkdir -p /srv/archive
echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list
${packed("one", "1")}
dpkg -i /srv/archive/one_1.deb >/dev/null`);
});

const upgrade = async (): Promise<string | undefined> =>
  (await apply(session, [upgradePackages()])).failure?.message;

test("newer packages come, with those that they need from now on, and a file that was edited by hand stays as it is", async () => {
  await node.must(
    `set -e; echo mine >/etc/one.conf${packed("one", "2", "exit 0", "needed")}${packed("needed", "1")}${listed}`,
  );
  expect(await upgrade()).toBeUndefined();
  expect(await versions()).toBe("needed 1 installed\none 2 installed\n");
  expect(await node.must("cat /etc/one.conf")).toBe("mine\n");
});

test("an installation that was cut off is brought to its end first", async () => {
  await node.must(`set -e${packed("one", "2")}${listed}
dpkg --unpack /srv/archive/one_2.deb >/dev/null`);
  expect(await versions()).toBe("one 2 unpacked\n");
  expect(await upgrade()).toBeUndefined();
  expect(await versions()).toBe("one 2 installed\n");
});

test("a package whose installation fails is told, and is nothing that an update goes on from", async () => {
  await node.must(`set -e${packed("one", "2", "echo no room for it >&2; exit 7")}${listed}`);
  expect(await upgrade()).toMatch(/upgrade the packages.*no room for it/s);
  expect(await versions()).toBe("one 2 half-configured\n");
});

test("an archive that is not reached is told: what it has is not known", async () => {
  await node.must("echo 'deb [trusted=yes] file:/srv/nowhere ./' >/etc/apt/sources.list");
  expect(await upgrade()).toMatch(/upgrade the packages/);
  expect(await versions()).toBe("one 1 installed\n");
});
