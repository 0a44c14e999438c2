variable "project" {
  description = "Project of bucket, dataset and jobs"
  type        = string
}

variable "location" {
  description = "Where bucket and dataset lie; a region, so that loads stay in it"
  type        = string
  default     = "europe-west3"
}

variable "bucket" {
  description = "Name of the bucket; store.url is gs://NAME/foldline"
  type        = string
}

variable "dataset" {
  description = "Name of the dataset: warehouse.dataset"
  type        = string
  default     = "foldline"
}

variable "account" {
  description = "Name of the service account"
  type        = string
  default     = "foldline"
}

variable "loader_role" {
  description = "Id of the role that loads the warehouse; unique in the project"
  type        = string
  default     = "foldlineWarehouseLoader"
}

variable "analysts" {
  description = "Who reads the warehouse: group:analysts@example.com, user:..."
  type        = set(string)
  default     = []
}

variable "soft_delete_days" {
  description = "Deleted objects can be restored for so many days (0, or 7 to 90)"
  type        = number
  default     = 7
}

variable "pods" {
  description = "Accounts in Kubernetes that are this one: foldline/foldline (namespace/account)"
  type        = set(string)
  default     = []
}
