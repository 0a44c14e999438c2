# What foldline needs in Google Cloud and nothing more: a bucket for archive and generations (store.url), a dataset for the
# warehouse, and one service account for the platform. Keys are not made: give the account to the machine or the pod that runs
# foldline, or make a key by hand and name its file in warehouse.credentials and GOOGLE_APPLICATION_CREDENTIALS.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.location
}

# Archive, generations and ledgers. Nothing in it may be deleted by rules of age: garbage is foldline's own to find, and an
# object that is gone is a loss.
resource "google_storage_bucket" "store" {
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  # What was deleted by mistake comes back for so long. Foldline itself overwrites files of a local warehouse only.
  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 24 * 60 * 60
  }
}

resource "google_bigquery_dataset" "warehouse" {
  dataset_id                 = var.dataset
  location                   = var.location
  description                = "Batch views of foldline; the table _foldline says of which generation"
  delete_contents_on_destroy = false
  # No default expiration of tables or partitions: warehouse.expire decides, and the ledger must know of it.
}

resource "google_service_account" "platform" {
  account_id   = var.account
  display_name = "foldline"
}

# Objects of the one bucket: made, read, listed, removed. Not the bucket's own settings, nor who may use it.
resource "google_storage_bucket_iam_member" "platform" {
  bucket = google_storage_bucket.store.name
  role   = "roles/storage.objectUser"
  member = google_service_account.platform.member
}

# Tables of the one dataset: made, described, removed, their rows read and replaced. Not who may read them.
resource "google_project_iam_custom_role" "loader" {
  role_id     = var.loader_role
  title       = "foldline warehouse loader"
  description = "Makes, describes, removes, reads and replaces tables"
  permissions = [
    "bigquery.tables.create",
    "bigquery.tables.delete",
    "bigquery.tables.get",
    "bigquery.tables.getData",
    "bigquery.tables.update",
    "bigquery.tables.updateData",
  ]
}

resource "google_bigquery_dataset_iam_member" "loader" {
  dataset_id = google_bigquery_dataset.warehouse.dataset_id
  role       = google_project_iam_custom_role.loader.id
  member     = google_service_account.platform.member
}

# Load and query jobs, which are the project's and see no data by themselves.
resource "google_project_iam_member" "jobs" {
  project = var.project
  role    = "roles/bigquery.jobUser"
  member  = google_service_account.platform.member
}

# Analysts: rows of the dataset, and queries that they pay for.
resource "google_bigquery_dataset_iam_member" "analysts" {
  for_each   = var.analysts
  dataset_id = google_bigquery_dataset.warehouse.dataset_id
  role       = "roles/bigquery.dataViewer"
  member     = each.value
}

# The pods of infra/kubernetes, where they run on GKE: their account there is this one here.
resource "google_service_account_iam_member" "pods" {
  for_each           = var.pods
  service_account_id = google_service_account.platform.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${each.value}]"
}
