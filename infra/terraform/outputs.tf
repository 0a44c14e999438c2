output "settings" {
  description = "For foldline.toml"
  value       = <<-TOML
    [store]
    url = "gs://${google_storage_bucket.store.name}/foldline"

    [warehouse]
    kind = "bigquery"
    project = "${var.project}"
    dataset = "${google_bigquery_dataset.warehouse.dataset_id}"
    location = "${var.location}"
  TOML
}

output "service_account" {
  description = "Whom foldline runs as"
  value       = google_service_account.platform.email
}
