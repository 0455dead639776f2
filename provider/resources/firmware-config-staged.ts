/*
 * Where an edit of the boot files waits for its trial on a node, and whether it still can be made; on-device/firmware-trial says what is in there.
 */

export const stagedEdit = "/var/lib/edgeseal/firmware-edit";
/** What the boot partition is to have when the trial went well, by the names there. */
export const stagedFiles = `${stagedEdit}/files`;

/** Shell function `staged_fits`: whether there is an edit that is whole, and of the files that are on the boot partition now. */
export const stagedFits = `
staged_fits() {
  [ -f ${stagedEdit}/name ] && (cd ${stagedFiles} && sha256sum -c --status ../files.sha256) && (cd /boot/firmware && sha256sum -c --status ${stagedEdit}/from.sha256)
}`;
