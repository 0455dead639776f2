import type { VirtualPi } from "../../testbed/virtual-pi.ts";
import { onPi } from "./provider-on-pi.ts";

/** Makes a root for containers on the node, a folder with perl in it. */
export async function makePerlRoot(pi: VirtualPi): Promise<void> {
  await onPi(
    pi,
    `mkdir -p /srv/root/usr/bin && cp /usr/bin/perl /srv/root/usr/bin/
for l in $(ldd /usr/bin/perl | grep -o '/[^ ]*'); do mkdir -p /srv/root/$(dirname $l) && cp $l /srv/root/$l; done
ln -s usr/lib /srv/root/lib 2>/dev/null || :`,
  );
}

/**
 * What a perl program prints and ends with in a container, under a seccomp profile. As the service does, without new privileges: crun installs the filter as its last step then, and
 * needs no call that the server does not.
 */
export const inContainer = (pi: VirtualPi, seccomp: string, program: string): Promise<string> =>
  onPi(
    pi,
    `podman run --rm --network none --cgroups disabled --security-opt no-new-privileges --security-opt seccomp=${seccomp} --rootfs /srv/root:O /usr/bin/perl -e '${program}' 2>&1; echo "status $?"`,
  );
