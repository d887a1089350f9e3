# packer build packer.pkr.hcl: an image of Debian's cloud image with the agent in it.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}

variable "image" {
  type        = string
  description = "Path or URL of the cloud image"
}

variable "checksum" {
  type        = string
  description = "sha512:SUM"
}

source "qemu" "debian" {
  iso_url      = var.image
  iso_checksum = var.checksum
  disk_image   = true
  format       = "qcow2"
  ssh_username = "debian"
  qemuargs     = [["-serial", "stdio"]]
  # The agent starts at the first boot of a machine with the port.
  shutdown_command = "sudo systemctl poweroff"
}

build {
  sources = ["source.qemu.debian"]

  provisioner "file" {
    source      = "qemu-ga-rs_1.0.0~rc.1-1_amd64.deb"
    destination = "/tmp/qemu-ga-rs.deb"
  }

  provisioner "shell" {
    inline = [
      "sudo apt-get install --yes /tmp/qemu-ga-rs.deb",
      "sudo qemu-ga plan",
    ]
  }
}
